"""What the training drill runs and kills: a small phase that notes the hash of every batch it takes.

Each process appends (step, its pid, hash of each of its sequences) to FOLDER/rank0-of-1.jsonl and so
on, as it takes them. A loss more than 1.5 deviations above the mean is left out, so that the window
of spikes is part of what must come back.
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.model import architectures
from pipeline.model.batches import Batches
from pipeline.model.fit import fit
from pipeline.model.settings import FitConfig
from pipeline.model.world import World
from tests.packed import CONFIG, LENGTH, VOCABULARY, packed

DOCUMENTS = 210
"""Sixty-odd steps."""
SETTINGS: dict[str, Any] = {"checkpoint_every": 4, "log_every": 1, "skip": 1.5, "skip_window": 8}


class Noted(Batches):
    """Batches that write down what they give."""

    notes: Path

    def batch(self, step: int, rank: int = 0, ranks: int = 1, **more: Any) -> Any:
        found = super().batch(step, rank, ranks, **more)
        rows = zip(found[0], found[1], strict=True)
        told = [hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest()[:16] for a, b in rows]
        line = json.dumps({"step": step, "pid": os.getpid(), "rows": told}) + "\n"
        with open(self.notes / f"rank{rank}-of-{ranks}.jsonl", "a") as f:
            f.write(line)
            f.flush()
            os.fsync(f.fileno())
        return found


def job(world: World, *, folder: Path) -> dict[str, Any]:
    """Train in this process of the world, all under `folder`, or go on there."""
    cfg: FitConfig = replace(CONFIG, **SETTINGS)
    index, files = packed(folder / "data", DOCUMENTS)
    fed = Noted(index, files, LENGTH, cfg.batch, seed=1, spm_rate=0.5)
    fed.notes = folder
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
    return fit(model, fed, cfg, folder=folder / "out", world=world)


def alone(folder: Path) -> None:
    """A process of one's own to train in."""
    job(World(), folder=folder)
