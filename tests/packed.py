"""Packed training data for tests: token files with a pattern to learn, and the index over them."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.schema import END, SPECIALS
from pipeline.kernels.packing import Spans, lay
from pipeline.model import architectures
from pipeline.model.batches import Batches
from pipeline.model.fit import fit
from pipeline.model.metrics import ignore
from pipeline.model.schedules import Schedule
from pipeline.model.settings import FitConfig
from pipeline.model.world import World

VOCABULARY, LENGTH = 320, 32
CONFIG = FitConfig(
    batch=4,
    schedule=Schedule(warmup=2, peak=3e-3, shape="linear", end=0.0),
    checkpoint_every=6,
    log_every=3,
    threads=1,
)


def packed(
    folder: Path, documents: int = 40, infill: float = 0.5, corrupt: float = 0.0
) -> tuple[pa.Table, list[Path]]:
    """Two token files of counting documents (5 to 60 tokens), and an index of LENGTH."""
    rng = np.random.default_rng(7)
    lengths = rng.integers(5, 60, documents)
    texts = [(19 + (rng.integers(300) + np.arange(n)) % 300).astype("<u2") for n in lengths]
    files, starts = [folder / "a.u16", folder / "b.u16"], np.zeros(documents, np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    for shard, path in enumerate(files):
        mine = np.arange(shard, documents, 2)
        starts[mine] = np.cumsum(lengths[mine]) - lengths[mine]
        half = path.with_suffix(f".{os.getpid()}")  # several processes make the same files at once
        half.write_bytes(b"".join(texts[i].tobytes() for i in mine))
        half.replace(path)
    pieces = lay(lengths, LENGTH, infill, rng, Spans(corrupt, longest=8, masks=10))
    index = {
        "sequence": pieces.sequence,
        "uid": [f"{d:032x}" for d in pieces.document],
        "shard": pa.array(pieces.document % 2, pa.int32()),
        "start": starts[pieces.document] + pieces.offset,
        "length": pa.array(pieces.length, pa.int32()),
        "infill": pieces.infill,
        "masked": pa.array(pieces.masked, pa.int32()),
        "spans": pa.array(pieces.spans, pa.int16()),
        "end": pa.array(np.where(pieces.last, END, -1), pa.int32()),
    }
    return pa.table(index), files


def plain(folder: Path, sequences: int, length: int, vocabulary: int) -> tuple[pa.Table, Path]:
    """A token file of random documents that fill a sequence each, and its index."""
    file, at = folder / "tokens.u16", np.arange(sequences)
    ids = np.random.default_rng(1).integers(len(SPECIALS), vocabulary, sequences * length)
    ids.astype("<u2").tofile(file)
    index = {
        "sequence": at,
        "uid": [f"{n:032x}" for n in at],
        "shard": pa.array(np.zeros(sequences), pa.int32()),
        "start": at * length,
        "length": pa.array(np.full(sequences, length), pa.int32()),
        "infill": np.zeros(sequences, bool),
        "masked": pa.array(np.zeros(sequences), pa.int32()),
        "spans": pa.array(np.zeros(sequences), pa.int16()),
        "end": pa.array(np.full(sequences, -1), pa.int32()),
    }
    return pa.table(index), file


def batches(folder: Path, documents: int = 40, masked: bool = False) -> Batches:
    """Batches of four sequences over `packed`: 12 steps for 40 documents."""
    index, files = packed(folder, documents)
    return Batches(index, files, LENGTH, CONFIG.batch, 1, 0.5, masked)


def train(
    world: World | None = None,
    *,
    folder: Path,
    documents: int = 40,
    on_step: Callable[[dict[str, Any]], None] = ignore,
    **settings: Any,
) -> dict[str, Any]:
    """A fresh snowcoder-tiny fitted on `batches`, all under `folder`; the summary."""
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
    cfg = replace(CONFIG, **settings)
    fed = batches(folder / "data", documents, cfg.mask_documents)
    return fit(model, fed, cfg, folder=folder, world=world, on_step=on_step)
