"""A byte-level BPE vocabulary learnt from the training side (or a named one taken over).

Special tokens for document ends, infilling and repository context come first, ids 0..6, then, where
asked for, those of span corruption. The sample
it learns from is drawn per language in proportion, by document hash, so it depends on no order.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.config import Bytes, config
from pipeline.core.errors import StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.schema import specials

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERSION = 2
BYTES = 256
"""Entries that a byte-level vocabulary has before it learns anything, beside special tokens."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where texts are cut before merging: Qwen2.5-Coder's expression, to the letter, since fast encoders
know published expressions only (gigatoken's list). Single digits, white-space runs kept."""


@config
class Config:
    size: int = 64_000
    """Vocabulary entries, special tokens included (SnowCoder 2409.02326 table 1: 64,000)."""
    sample: Bytes = 100_000_000
    """Bytes of text to learn from (ours; more changes few merges)."""
    masks: int = 0
    """Mask sentinels for span corruption, behind the other special tokens with <sep> and <eom>
    (CodeGen2 2305.02309 has 899); 0 makes none of them."""
    name: str | None = None
    """Instead: a Hugging Face name or a folder with tokenizer.json, taken as it is."""

    def __post_init__(self) -> None:
        if self.masks < 0:
            raise ValueError(f"masks is {self.masks}: 0 or more")
        special = len(specials(self.masks))
        if self.size < BYTES + special:
            raise ValueError(
                f"size is {self.size}: {BYTES + special} or more ({BYTES} bytes and {special} special tokens)"
            )
        if self.sample < 1:
            raise ValueError(f"sample is {self.sample} bytes: 1 or more")


def run(files: Files, cfg: Config, job: Job) -> None:
    import tokenizers

    if cfg.name is not None:
        made = taken(cfg.name, cfg.masks)
    else:
        sizes = job.collect(files, pick, ["bytes"])
        if not any(map(len, sizes)):
            raise StageError(
                f"step {job.step}: no document to learn from; loosen the steps before it"
            )
        limit = threshold(pa.concat_tables(sizes), cfg.sample)
        drawn = pa.concat_tables(job.collect(files, partial(sample, limit=limit), ["text"]))
        made = learnt(drawn["text"].to_pylist(), cfg.size, cfg.masks)
    made.save(str(job.folder / "tokenizer.json"))
    size = max(made.get_vocab().values()) + 1  # a named one may leave ids out
    job.facts |= {"size": size, "masks": cfg.masks, "tokenizers": tokenizers.__version__}


def pick(table: pa.Table) -> pa.Table:
    """Each document's place in the sampling order (63 bits of its uid's hash) and its size."""
    return pa.table({"place": _places(table), "bytes": table["bytes"]})


def _places(table: pa.Table) -> pa.Array:
    from pipeline.kernels.hashing import places

    return pa.array((places(table["uid"], "sample") >> np.uint64(1)).astype(np.int64))


def threshold(sizes: pa.Table, budget: int) -> int:
    """The place up to which documents add up to `budget` bytes or more (or all there are)."""
    ordered = sizes.sort_by("place")
    before = np.cumsum(ordered["bytes"].to_numpy()) - ordered["bytes"].to_numpy()
    wanted = int(np.searchsorted(before, budget))  # documents begun before the budget was full
    return int(ordered["place"][wanted - 1].as_py())


def sample(table: pa.Table, limit: int) -> pa.Table:
    """The texts of the documents up to the place `limit`."""
    return table.select(["text"]).filter(pc.less_equal(_places(table), limit))


def learnt(texts: list[str], size: int, masks: int = 0) -> "Tokenizer":
    """A byte-level BPE of `size` entries: texts cut by SPLIT, no normalisation.

    It is the same for any order of the texts.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials(masks)),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    made.train_from_iterator(sorted(texts), trainer)
    return made


def taken(name: str, masks: int = 0) -> "Tokenizer":
    """A named tokenizer; StageError when it lacks our special tokens."""
    from tokenizers import Tokenizer

    folder = Path(name)
    made = (
        Tokenizer.from_file(str(folder / "tokenizer.json"))
        if folder.is_dir()
        else Tokenizer.from_pretrained(name)
    )
    wanted = specials(masks)
    if missing := [s for i, s in enumerate(wanted) if made.token_to_id(s) != i]:
        raise StageError(
            f"tokenizer {name}: {missing[0]} is not where Icefloe needs it (ids 0..{len(wanted) - 1}); "
            "learn one (leave `name` out)"
        )
    return made
