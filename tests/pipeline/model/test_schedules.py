"""Learning rates at the corners that papers state: peak after warm-up, end after the last step."""

import pytest

from pipeline.core.config import parse
from pipeline.core.errors import RecipeError
from pipeline.model.schedules import Schedule, rate, warmup_steps


def test_snowcoder_phase_one_warms_up_and_falls_to_a_tenth() -> None:
    schedule = Schedule(warmup=600, peak=5.3e-4, shape="cosine", end=5.3e-5)
    steps = 119_209
    assert rate(schedule, 0, steps) == pytest.approx(5.3e-4 / 600)
    assert rate(schedule, 599, steps) == rate(schedule, 600, steps) == 5.3e-4
    assert rate(schedule, 600 + (steps - 600) // 2, steps) == pytest.approx(2.915e-4, rel=1e-4)
    assert rate(schedule, steps, steps) == pytest.approx(5.3e-5)


def test_linear_reaches_zero_only_after_the_last_step() -> None:
    schedule = Schedule(warmup=1000, peak=5.3e-4, shape="linear", end=0.0)
    assert rate(schedule, 11_920, 11_921) == pytest.approx(5.3e-4 / 10_921)
    assert rate(schedule, 11_921, 11_921) == 0


def test_constant_and_wsd_hold_the_peak() -> None:
    constant = Schedule(peak=1e-3, shape="constant", end=0.0)
    wsd = Schedule(peak=1e-3, shape="wsd", end=0.0, decay=0.2)
    assert {rate(constant, s, 100) for s in range(100)} == {1e-3}
    assert [rate(wsd, s, 100) for s in range(81)] == pytest.approx([1e-3] * 81)
    assert rate(wsd, 90, 100) == pytest.approx(5e-4)


def test_warmup_is_steps_or_a_share() -> None:
    for given, steps in ((7, 7), ("5%", 10), (0.05, 10), (0, 0)):
        assert warmup_steps(parse(Schedule, {"warmup": given}, "phase1"), 200) == steps


def test_a_warmup_longer_than_the_phase_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"warmup is 600, but the phase has 200 steps.*5%"):
        rate(Schedule(warmup=600), 0, 200)


@pytest.mark.parametrize(
    "settings", [{"warmup": 1.5}, {"warmup": -1}, {"end": 1.0}, {"decay": 0}, {"shape": "cos"}]
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=f"phase1: .*{next(iter(settings))}"):
        parse(Schedule, settings, "phase1")
