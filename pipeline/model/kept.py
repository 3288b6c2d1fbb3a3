"""Which checkpoints a phase makes and leaves, and the table of them (checkpoints.json).

Every so many steps or tokens, the last few or all of them (Crystal 2411.04156).
Knows nothing of how a checkpoint is written.
"""

import json
import os
from collections.abc import Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from pipeline.core.store import guard
from pipeline.model import checkpoint
from pipeline.model.batches import Batches
from pipeline.model.settings import FitConfig

TABLE = "checkpoints.json"


def due(batches: Batches, cfg: FitConfig) -> frozenset[int]:
    """The numbers of steps done after which a checkpoint is made; the last is always one of them.

    By tokens: after the step that fills another `checkpoint_tokens`.
    """
    steps, every = batches.steps, cfg.checkpoint_tokens
    if every is None:
        return frozenset({*range(cfg.checkpoint_every, steps, cfg.checkpoint_every), steps})
    sums = accumulate(map(batches.tokens, range(steps)), initial=0)
    filled = (n for n, (a, b) in enumerate(pairwise(sums), 1) if a // every < b // every)
    return frozenset({*filled, steps})


def leave(folder: Path, name: str, cfg: FitConfig, meta: Mapping[str, Any]) -> None:
    """After the checkpoint of `meta`: delete what `keep` does not want, and write the table anew.

    folder: the phase's, `name` its name in the table.
    """
    if cfg.keep != "all":
        checkpoint.keep(folder / "checkpoints", cfg.keep)
    note(folder, name, meta)


def note(folder: Path, name: str, meta: Mapping[str, Any]) -> None:
    """Write the table with a row for the newest checkpoint, in one move; rows without one go.

    A kill between a checkpoint and its row is mended by this call when the run goes on.
    """
    path = f"checkpoints/step-{meta['steps']:08d}"
    row = {"phase": name, "step": meta["steps"], "tokens": meta["tokens"]}
    newest = row | {"loss": meta["loss_last"], "path": path}
    others = [r for r in table(folder) if r["step"] < meta["steps"]]
    rows = [*(r for r in others if (folder / r["path"]).is_dir()), newest]
    half = folder / f".half-{TABLE}"
    with guard(half):
        half.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
        checkpoint.sync(half)
    os.replace(half, folder / TABLE)


def table(folder: Path) -> list[dict[str, Any]]:
    """The rows of a phase's checkpoints (phase, step, tokens, loss, path), oldest first."""
    path = folder / TABLE
    return list(json.loads(path.read_text())) if path.exists() else []
