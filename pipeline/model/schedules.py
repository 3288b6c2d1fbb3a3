"""Learning rates by step: warm up to a peak, then hold or fall to an end.

Each phase has its own schedule (SnowCoder 2409.02326 §2: cosine to a tenth, then linear to zero).
Imports no torch, so that recipes are checked without it.
"""

import math
from dataclasses import replace
from typing import Literal

from pipeline.core.config import Share, config
from pipeline.core.errors import RecipeError


@config
class Schedule:
    warmup: int | Share = 0
    """Steps of linear rise from 0 to the peak, or their share of all steps below 1 (`5%`; SnowCoder
    phase 1: 600 steps, phase 2: 1000)."""
    peak: float | Literal["inherit"] = 5.3e-4
    """Highest learning rate (SnowCoder, after DeepSeek-Coder-1.3B); inherit: the rate that the phase
    before ended at, so that one decay goes on over other data (Crystal 2411.04156, phases 1 and 2)."""
    shape: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How it falls from the peak to `end`; wsd holds, then falls linearly; constant never falls."""
    end: float = 5.3e-5
    """The rate that the fall reaches after the last step (SnowCoder phase 1; 0 in phase 2)."""
    stretch: float = 1.0
    """The fall takes this many times the steps after warm-up, so that the phase stops on the way, for
    another to go on (CrystalCoder phase 1: 294,337 steps of which 79,635 are taken, 3.696)."""
    decay: Share = 0.1
    """Share of the steps after warm-up in which wsd falls (ours)."""

    def __post_init__(self) -> None:
        if self.warmup < 0 or (isinstance(self.warmup, float) and self.warmup >= 1):
            raise ValueError(f"warmup is {self.warmup}: a number of steps, or a share below 1")
        if self.end < 0 or (self.peak != "inherit" and self.end > self.peak):
            raise ValueError(f"end is {self.end}, peak {self.peak}: they must be 0 <= end <= peak")
        if self.stretch < 1:
            raise ValueError(f"stretch is {self.stretch}: 1 or more")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is {self.decay}: above 0, at most 1")


def rate(schedule: Schedule, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`; the peak is at the last warm-up step.

    RecipeError when the run ends before the warm-up does, or for a peak that is still to be
    inherited.
    """
    if schedule.peak == "inherit":
        raise RecipeError("schedule.peak is inherit, but there is no phase before; give a rate")
    warmup = warmup_steps(schedule, steps)
    if step < warmup:
        return schedule.peak * (step + 1) / warmup
    gone = min(1.0, (step - warmup) / ((steps - warmup) * schedule.stretch))
    left = _left(schedule, gone)
    return left * schedule.peak + (1 - left) * schedule.end


def inherited(schedule: Schedule, before: float | None) -> Schedule:
    """The schedule with `before`, the last rate of the phase before, for a peak that is inherited.

    RecipeError where its end is above that.
    """
    if schedule.peak != "inherit" or before is None:
        return schedule
    if schedule.end > before:
        raise RecipeError(
            f"schedule.end is {schedule.end}, above the inherited peak {before}; lower it"
        )
    return replace(schedule, peak=before)


def warmup_steps(schedule: Schedule, steps: int) -> int:
    """Steps of warm-up in a run of `steps`; RecipeError when they are not fewer."""
    given = schedule.warmup
    warmup = round(given * steps) if isinstance(given, float) else given
    if warmup >= max(1, steps):
        raise RecipeError(
            f"schedule.warmup is {given}, but the phase has {steps} steps: the peak would never be "
            "reached; lower it, give a share such as 5%, or give the phase a larger budget"
        )
    return warmup


def _left(schedule: Schedule, gone: float) -> float:
    """How much of the way from peak to end is left, 1 to 0, when `gone` of it has passed."""
    match schedule.shape:
        case "constant":
            return 1.0
        case "linear":
            return 1 - gone
        case "cosine":
            return (1 + math.cos(math.pi * gone)) / 2
        case "wsd":
            return min(1.0, (1 - gone) / schedule.decay)
