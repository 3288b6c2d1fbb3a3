"""Documents -> tokens: one flat integer file per shard, and where each document lies in it.

A layer with `start` and `length` (in tokens) over the shard's `.u16` or `.u32` file, which training
maps into memory. No special tokens: packing adds them.
"""

from functools import cache, partial

import numpy as np
import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.runner import Artifact

VERSION = 1


@config
class Config:
    pass


def run(files: Files, tokenizer: Artifact, cfg: Config, job: Job) -> None:
    path = str(tokenizer.folder / "tokenizer.json")
    dtype = "uint16" if tokenizer.facts["size"] <= 2**16 else "uint32"
    judge = partial(encode, tokenizer=path, dtype=dtype)
    out = job.layer(files, judge, ["text"], kind="tokens", sidecar=("ids", dtype))
    lengths = [np.sum(t["length"].to_numpy()) for t in job.collect(out, None, ["length"])]
    job.facts |= {
        "tokens": int(sum(lengths)),
        "dtype": dtype,
        "vocabulary": tokenizer.facts["size"],
    }


def encode(table: pa.Table, tokenizer: str, dtype: str) -> pa.Table:
    """Every document kept, with its token `ids`; a special token's spelling in a text is split."""
    found = [e.ids for e in _load(tokenizer).encode_batch_fast(table["text"].to_pylist())]
    ids = pa.array(found, pa.list_(pa.from_numpy_dtype(np.dtype(dtype))))
    return verdicts(table["uid"], [None] * len(found), ids=ids)


@cache
def _load(path: str) -> "tokenizers.Tokenizer":  # type: ignore[name-defined]  # noqa: F821
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(path)
    made.encode_special_tokens = True
    return made
