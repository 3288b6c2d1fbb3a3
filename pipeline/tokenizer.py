"""A byte-level BPE vocabulary learnt from the training side (or a named one taken over).

Special tokens for document ends, infilling and repository context come first, ids 0..6. The sample
it learns from is drawn per language in proportion, by document hash, so it depends on no order.
"""

import heapq
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline.core.config import Bytes, config
from pipeline.core.errors import StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.schema import SPECIALS, digest

VERSION = 1


@config
class Config:
    size: int = 64_000
    """Vocabulary entries, special tokens included (SnowCoder 2409.02326 table 1: 64,000)."""
    sample: Bytes = 100_000_000
    """Bytes of text to learn from (ours; more changes few merges)."""
    name: str | None = None
    """Instead: a Hugging Face name or a folder with tokenizer.json, taken as it is."""


def run(files: Files, cfg: Config, job: Job) -> None:
    import tokenizers

    if cfg.name is not None:
        made = taken(cfg.name)
    else:
        sizes = pa.concat_tables(job.collect(files, pick, ["bytes"]))
        limit = threshold(sizes, cfg.sample)
        texts = job.collect(files, partial(sample, limit=limit), ["text", "bytes"])
        made = learnt([t for table in texts for t in table["text"].to_pylist()], cfg.size)
    made.save(str(job.folder / "tokenizer.json"))
    job.facts |= {"size": made.get_vocab_size(), "tokenizers": tokenizers.__version__}


def pick(table: pa.Table) -> pa.Table:
    """Each document's place in the sampling order (64 bits of its hash) and its size."""
    return pa.table({"place": _places(table), "bytes": table["bytes"]})


def _places(table: pa.Table) -> pa.Array:
    return pa.array(
        [int(digest("sample", u)[:15], 16) for u in table["uid"].to_pylist()], pa.int64()
    )


def threshold(sizes: pa.Table, budget: int) -> int:
    """The place up to which documents add up to `budget` bytes."""
    heap = list(zip(sizes["place"].to_pylist(), sizes["bytes"].to_pylist(), strict=True))
    heapq.heapify(heap)
    taken, place = 0, -1
    while heap and taken < budget:
        place, size = heapq.heappop(heap)
        taken += size
    return place


def sample(table: pa.Table, limit: int) -> pa.Table:
    """The documents up to the place `limit`."""
    places = _places(table).to_numpy()
    return table.select(["text"]).filter(pa.array(places <= limit))


def learnt(texts: list[str], size: int) -> "tokenizers.Tokenizer":  # type: ignore[name-defined]  # noqa: F821
    """A byte-level BPE of `size` entries: single digits, white-space runs kept, no normalisation."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    split = Regex(
        r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    made.train_from_iterator(_sorted(texts), trainer)
    return made


def _sorted(texts: list[str]) -> Iterator[str]:
    """One order of the texts, whatever order the shards came in."""
    yield from sorted(texts)


def taken(name: str) -> "tokenizers.Tokenizer":  # type: ignore[name-defined]  # noqa: F821
    """A named tokenizer; StageError when it lacks our special tokens."""
    from tokenizers import Tokenizer

    folder = Path(name)
    made = (
        Tokenizer.from_file(str(folder / "tokenizer.json"))
        if folder.is_dir()
        else Tokenizer.from_pretrained(name)
    )
    if missing := [s for i, s in enumerate(SPECIALS) if made.token_to_id(s) != i]:
        raise StageError(
            f"tokenizer {name}: {missing[0]} is not where Icefloe needs it (ids 0..6); "
            "learn one (leave `name` out)"
        )
    return made
