"""Learning rates at the corners that papers state: peak after warm-up, end after the last step."""

import pytest

from pipeline.core.config import parse
from pipeline.core.errors import RecipeError
from pipeline.model.schedules import Schedule, inherited, rate, warmup_steps


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


def test_crystal_goes_on_with_one_decay_over_other_data() -> None:
    """Its params.yaml: phase 1 would fall over 294,337 steps and stops after 79,635 of them."""
    stretch = 294_337 / 79_635
    first = Schedule(warmup=86, peak=0.012, shape="linear", end=1.2408e-4, stretch=stretch)
    last = rate(first, 79_721, 79_721)
    assert last == pytest.approx(8.787e-3, rel=1e-4)
    second = inherited(Schedule(warmup=86, peak="inherit", shape="linear", end=1.3679e-4), last)
    assert rate(second, 85, 214_387) == last
    assert rate(second, 214_387, 214_387) == pytest.approx(1.3679e-4)


def test_an_inherited_peak_needs_a_phase_before_and_an_end_below_it() -> None:
    schedule = Schedule(peak="inherit", end=1e-4)
    with pytest.raises(RecipeError, match="no phase before"):
        rate(inherited(schedule, None), 0, 10)
    with pytest.raises(RecipeError, match=r"end is 0.0001, above the inherited peak 1e-05"):
        inherited(schedule, 1e-5)


def test_warmup_is_steps_or_a_share() -> None:
    for given, steps in ((7, 7), ("5%", 10), (0.05, 10), (0, 0)):
        assert warmup_steps(parse(Schedule, {"warmup": given}, "phase1"), 200) == steps


def test_a_warmup_longer_than_the_phase_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"warmup is 600, but the phase has 200 steps.*5%"):
        rate(Schedule(warmup=600), 0, 200)


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup": 1.5},
        {"warmup": -1},
        {"end": 1.0},
        {"decay": 0},
        {"stretch": 0.5},
        {"shape": "cos"},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=f"phase1: .*{next(iter(settings))}"):
        parse(Schedule, settings, "phase1")
