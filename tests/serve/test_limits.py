"""Rates let through what a minute allows and no more, and say how long to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.limits import Rates, _duration


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, 30), max_size=80), st.integers(1, 20))
def test_a_window_holds_no_more_than_its_rate(steps: list[float], per_minute: int) -> None:
    clock = Clock()
    rates, passed = Rates(clock), []
    for step in steps:
        clock.now += step
        allowance = rates.take("a", per_minute)
        assert 0 <= allowance.remaining < per_minute or allowance.wait
        if not allowance.wait:
            passed.append(clock.now)
    for first in passed:
        within = [t for t in passed if first <= t <= first + 60]
        assert len(within) <= 2 * per_minute


def test_clients_wait_as_long_as_they_are_told() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert [rates.take("a", 2).remaining for _ in range(2)] == [1, 0]
    wait = rates.take("a", 2).wait
    assert wait == pytest.approx(30)
    assert rates.take("b", 2).wait == 0
    clock.now += wait
    assert rates.take("a", 2).wait == 0
    assert rates.take("a", 2).wait == pytest.approx(30)


def test_durations_are_as_openais() -> None:
    assert [_duration(s) for s in (0.25, 12, 90)] == ["250ms", "12s", "1m30s"]
