"""Tokenize and pack: speed from Parquet to a packed index, every file's ids held against `tokenizers`.

    python -m tests.bench.tokenize --corpus DIR_OR_PARQUET --limit 100M --out FILE.md

Ours are the boxes as a run calls them (shards read, engines compared, token files and layers written
and hashed, index packed), with each engine. Rivals tokenize only, texts in memory; each is measured
when it can be imported. One thread; rates are per CPU second of this process. The vocabulary is
learnt by our own box on a part of the corpus, timed apart.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import pack, tokenize, tokenizer
from pipeline.core.files import Files
from pipeline.core.job import stack
from pipeline.core.runner import Artifact
from pipeline.core.schema import SPECIALS
from pipeline.core.store import Store, sha256_file
from tests.bench import corpus
from tests.running import bare_job, stored

SHARD = 16_000_000
"""Bytes of text in a shard."""
LIBRARIES = ("pyarrow", "numpy", "numba", "gigatoken", "tokenizers", "datatrove", "tiktoken")
Told = dict[str, Any]


def main() -> None:
    corpus.measured(_arguments(), _measured, _lines, LIBRARIES)


def _arguments() -> argparse.Namespace:
    made, size = corpus.parser(__doc__, "100M"), corpus.size
    made.add_argument("--train", type=size, default="20M", help="bytes to learn the vocabulary on")
    made.add_argument("--size", type=int, default=32_000, help="entries of the vocabulary")
    made.add_argument("--rival-limit", type=size, default="100M", help="bytes each rival gets")
    made.add_argument("--runs", type=int, default=3, help="runs with gigatoken; the median counts")
    return made.parse_args()


def _measured(table: pa.Table, store: Store, args: argparse.Namespace) -> Told:
    size = corpus.text_bytes(table)
    files = stored(table.to_pylist(), store, max(1, size // SHARD))
    seconds, vocabulary = timed(partial(vocabulary_of, files, store, args.size, args.train))
    compiling, _ = timed(partial(_warm, store, vocabulary))
    engines: list[tokenize.Engine] = ["tokenizers"]
    if find_spec("gigatoken"):
        engines.insert(0, "gigatoken")
    runs = {"gigatoken": args.runs, "tokenizers": 1}
    ours = {e: _ours(files, vocabulary, store, e, size, runs[e]) for e in engines}
    texts = [t for s in files.shards for t in files.read(s, ["text"])["text"].to_pylist()]
    path, first = vocabulary.folder / "tokenizer.json", _first(texts, args.rival_limit)
    slowest, exact = timed(partial(_by_tokenizers, path, texts[:first]))
    reference = exact + ours["tokenizers"]["ids"][first:]  # beyond a rival's limit, our fallback's
    for told in ours.values():
        told["files_differing"] = _differing(told.pop("ids"), reference)
    part = sum(len(t.encode()) for t in texts[:first])
    rivals: Told = {"tokenizers encode_batch": _told(slowest, part)}
    for name, run in _rivals(path, store).items():
        took, found = timed(partial(run, texts[:first]))
        rivals[name] = _told(took, part) | (
            {"files_differing": _differing(found, exact)} if found is not None else {}
        )
    best = {"engine": engines[0]} | ours[engines[0]] | {"files_compared": len(texts)}
    return {
        "ours": best
        | {"train_mb_per_s_core": round(min(args.train, size) / 1e6 / seconds, 2)}
        | {"start_s": round(compiling, 2)}
        | {f"with {e}": ours[e] for e in engines[1:]},
        "rivals": rivals,
    }


def vocabulary_of(files: Files, store: Store, size: int, sample: int) -> Artifact:
    """Our tokenizer box's artifact, with as much of a manifest as tokenize reads."""
    job = bare_job(store, "tokenizer")
    tokenizer.run(files, tokenizer.Config(size=size, sample=sample), job)
    digest = sha256_file(job.folder / "tokenizer.json")
    store.create(json.dumps({"digest": digest, "facts": job.facts}).encode(), *_manifest())
    return Artifact(store, "tokenizer", "k")


def _manifest() -> tuple[str, ...]:
    return "tokenizer", "k", "manifest.json"


def _warm(store: Store, vocabulary: Artifact) -> None:
    """One run over two small files: imports, and kernels compiled or read from their cache."""
    files = stored([{"text": "x = 1\n"}, {"text": "y = 2\n", "path": "y.py"}], store)
    _pack(tokenized(files, vocabulary, store, "auto", "warm"), store, "warm")


def _ours(
    files: Files, vocabulary: Artifact, store: Store, engine: str, size: int, runs: int
) -> Told:
    """Median CPU of both boxes; each run begins with a fresh instance, whose cache is empty."""
    seconds: list[tuple[float, float]] = []
    for number in range(runs):
        tokenize._gigatoken.cache_clear()
        tokenize._tokenizers.cache_clear()
        name = f"{engine}-{number}"
        first, out = timed(partial(tokenized, files, vocabulary, store, engine, name))
        second, _ = timed(partial(_pack, out, store, name))
        seconds.append((first, second))
    both, first, second = (statistics.median(s) for s in zip(*_sums(seconds), strict=True))
    return _told(both, size) | {
        "tokenize_mb_per_s_core": round(size / 1e6 / first, 1),
        "pack_mb_per_s_core": round(size / 1e6 / second),
        "pack_files_per_s_core": round(sum(s.rows for s in files.shards) / second),
        "ids": [ids for shard in range(len(out.shards)) for ids in _ids(out, shard)],
    }


def _sums(seconds: list[tuple[float, float]]) -> Iterator[tuple[float, float, float]]:
    yield from ((a + b, a, b) for a, b in seconds)


def tokenized(files: Files, vocabulary: Artifact, store: Store, engine: str, name: str) -> Files:
    job = bare_job(store, f"tokenize-{name}")
    cfg = tokenize.Config(engine=engine)
    tokenize.run(files, vocabulary, cfg, job)
    return stack(files, "tokens", job.layers)


def _pack(files: Files, store: Store, name: str) -> None:
    cfg = pack.Config(group=("language", "repo"), infill=0.5)
    pack.run(files, cfg, bare_job(store, "pack", name))


def _ids(files: Files, number: int) -> Iterator[np.ndarray]:
    """The ids of each document of a shard, from its token file."""
    shard = files.shards[number]
    path = files.store.local(str(shard.tokens))
    flat = np.fromfile(path, np.uint16 if path.suffix == ".u16" else np.uint32)
    table = files.read(shard, ["start", "length"])
    for start, length in zip(*(table[n].to_pylist() for n in ("start", "length")), strict=True):
        yield flat[start : start + length]


def _first(texts: list[str], limit: int) -> int:
    """How many texts are within the limit; one at least."""
    sizes = np.cumsum([len(t.encode()) for t in texts])
    return max(1, int(np.searchsorted(sizes, limit, side="right")))


def _differing(found: list[np.ndarray], exact: list[np.ndarray]) -> int:
    return sum(not np.array_equal(a, b) for a, b in zip(found, exact, strict=False))


def _by_tokenizers(path: Path, texts: list[str]) -> list[np.ndarray]:
    """Hugging Face's library as most call it, 1,000 texts at once."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(path))
    made.encode_special_tokens = True
    batches = (made.encode_batch(texts[i : i + 1000]) for i in range(0, len(texts), 1000))
    return [np.array(e.ids, np.uint32) for batch in batches for e in batch]


def _rivals(path: Path, store: Store) -> dict[str, Callable[[list[str]], list[np.ndarray] | None]]:
    found: dict[str, Callable[[list[str]], list[np.ndarray] | None]] = {}
    if find_spec("datatrove"):
        found["datatrove DocumentTokenizer"] = partial(_by_datatrove, path, store)
    if find_spec("tiktoken"):
        found["tiktoken"] = partial(_by_tiktoken, path)
    return found


def _by_datatrove(path: Path, store: Store, texts: list[str]) -> None:
    """Its stage with its defaults: documents tokenized, written, shuffled, written again."""
    from datatrove.data import Document
    from datatrove.pipeline.tokens import DocumentTokenizer

    stage = DocumentTokenizer(store.path("datatrove"), str(path), eos_token=SPECIALS[0], seed=1)
    documents = (Document(text=t, id=str(i)) for i, t in enumerate(texts))
    for _ in stage.run(documents, 0, 1) or ():
        pass


def _by_tiktoken(path: Path, texts: list[str]) -> list[np.ndarray]:
    """The same merges, ranked by id, and the same cuts."""
    import tiktoken
    from tokenizers.pre_tokenizers import ByteLevel

    back = {c: i for i, c in _byte_letters(ByteLevel.alphabet())}
    vocabulary = json.loads(path.read_text())["model"]["vocab"]
    ranks = {
        bytes(back[c] for c in word): i for word, i in vocabulary.items() if i >= len(SPECIALS)
    }
    made = tiktoken.Encoding(
        "ours", pat_str=tokenizer.SPLIT, mergeable_ranks=ranks, special_tokens={}
    )
    return [np.array(made.encode_ordinary(t), np.uint32) for t in texts]


def _byte_letters(alphabet: list[str]) -> Iterator[tuple[int, str]]:
    """Each byte and the letter that stands for it in a byte-level vocabulary."""
    own = [i for i in range(256) if chr(i) in alphabet]
    yield from ((i, chr(i)) for i in own)
    others = [i for i in range(256) if chr(i) not in alphabet]
    yield from zip(others, sorted(set(alphabet) - {chr(i) for i in own}), strict=True)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(CPU seconds of this process, result)."""
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = work()
    return time.process_time() - began, result


def _told(seconds: float, size: int) -> Told:
    return {"mb_per_s_core": round(size / 1e6 / seconds, 2), "cpu_s": round(seconds, 2)}


def _lines(told: Told) -> Iterator[str]:
    ours, about = told["ours"], told["corpus"]
    versions = ", ".join(f"{k} {v}" for k, v in told["versions"].items())
    yield "# Tokenize and pack\n"
    yield f"`python -m tests.bench.tokenize {' '.join(sys.argv[1:])}`\n"
    yield f"{about['files']:,} files, {about['bytes'] / 1e6:.1f} MB, {about['source']}; {versions}.\n"
    yield "| | MB/s per core | files differing |\n|---|---|---|"
    yield f"| **icefloe, {ours['engine']}** | **{ours['mb_per_s_core']}** | {ours['files_differing']} |"
    for name, row in ours.items():
        if name.startswith("with "):
            yield f"| icefloe, {name[5:]} | {row['mb_per_s_core']} | {row['files_differing']} |"
    for name, row in told["rivals"].items():
        differing = row.get("files_differing", "its own ids" if "trove" in name else "reference")
        yield f"| {name} | {row['mb_per_s_core']} | {differing} |"
    yield f"\n{ours['files_compared']:,} files compared. Of ours: tokenize {ours['tokenize_mb_per_s_core']}"
    yield f"MB/s, pack {ours['pack_mb_per_s_core']:,} MB/s ({ours['pack_files_per_s_core']:,} files/s)."
    yield f"Learning the vocabulary: {ours['train_mb_per_s_core']} MB/s. First use: {ours['start_s']} s."


if __name__ == "__main__":
    main()
