"""Perplexity: rates of learning and scoring, held-out perplexity, and what lies in the tails.

    python -m tests.bench.perplexity --corpus DIR_OR_PARQUET --limit 100M --tails 10

Models are learnt on `--train` tokens and score a tenth of the documents, drawn by hash, that they
have not seen. kenlm scores the same documents by the same model where it is installed (a text of
words is made for it outside the clock); lmplz estimates from the same text where it is named. One
thread; rates are per CPU second. The tails are the whole box's.
"""

import argparse
import re
import resource
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import dedup, perplexity
from pipeline.core.files import Files
from pipeline.core.job import stack
from pipeline.core.store import Store
from pipeline.kernels import ngrams
from pipeline.kernels.hashing import places
from tests.bench import corpus
from tests.bench.tokenize import timed, tokenized, vocabulary_of
from tests.running import bare_job, stored

SHARD = 16_000_000
"""Bytes of text in a shard."""
ORDER = 5
Told = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Documents of one language as ids: what is learnt from, and rows of what is scored."""

    ids: np.ndarray
    bounds: np.ndarray
    sizes: np.ndarray
    learnt: np.ndarray
    held: np.ndarray
    vocabulary: int

    def sample(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, bounds) of the first documents to learn from, with at least so many tokens."""
        lengths = np.diff(self.bounds)[self.learnt]
        rows = self.learnt[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]
        parts = [self.ids[self.bounds[r] : self.bounds[r + 1]] for r in rows]
        return np.concatenate(parts), np.cumsum([0, *map(len, parts)])


def main() -> None:
    corpus.measured(_arguments(), _measured, _lines, ("pyarrow", "numpy", "numba", "kenlm"))


def _arguments() -> argparse.Namespace:
    made, size = corpus.parser(__doc__, "100M"), corpus.size
    made.add_argument("--train", type=size, default="5M", help="tokens to learn from")
    made.add_argument("--size", type=int, default=32_000, help="entries of the vocabulary")
    made.add_argument("--tails", type=int, default=10, help="files of each tail to name")
    made.add_argument("--lmplz", default=shutil.which("lmplz"), help="KenLM's lmplz")
    return made.parse_args()


def _measured(table: pa.Table, store: Store, args: argparse.Namespace) -> Told:
    files = _unique(stored(table.to_pylist(), store, max(1, corpus.text_bytes(table) // SHARD)))
    vocabulary = vocabulary_of(files, store, args.size, 20_000_000)
    files = tokenized(files, vocabulary, store, "auto", "all")
    split = _split(files, args.size)
    ngrams.log_probabilities(_model(split, 1000), split.ids, split.bounds[:1], split.bounds[1:2])
    ours, made = _rates(split, args.train)
    told = {"ours": ours, "held_out": _compared(split, args.train)}
    if find_spec("kenlm"):
        told["kenlm"] = _by_kenlm(split, made, store)
    if args.lmplz:
        told["lmplz"] = _by_lmplz(split, args.train, made, store, args.lmplz)
    return told | {"box": _box(files, args.tails)}


def _unique(files: Files) -> Files:
    """Without copies and near copies, as a recipe has them when it measures."""
    job = bare_job(files.store, "dedup")
    dedup.run(files, dedup.Config(), job)
    return stack(files, "unique", job.layers)


def _split(files: Files, vocabulary: int) -> Split:
    """The documents of the corpus's first language by text, in the order of their places."""
    names = ["ids", "language", "bytes"]
    table = pa.concat_tables([files.read(s, names) for s in files.shards])
    most = table.group_by("language").aggregate([("bytes", "sum")]).sort_by("bytes_sum")
    table = table.filter(pc.equal(table["language"], most["language"][-1]))
    table = table.take(pa.array(np.argsort(places(table["uid"], "bench"), kind="stable")))
    lists = table["ids"].combine_chunks()
    rows, cut = np.arange(len(table)), len(table) // 10
    bounds = np.asarray(lists.offsets)
    return Split(
        np.asarray(lists.values),
        bounds,
        table["bytes"].to_numpy(),
        rows[cut:],
        rows[:cut],
        vocabulary,
    )


def _model(split: Split, tokens: int, order: int = ORDER, prune: int = 0) -> ngrams.Model:
    return ngrams.learn(*split.sample(tokens), split.vocabulary, order, prune)


def _rates(split: Split, tokens: int) -> tuple[Told, list[ngrams.Estimate]]:
    ids, bounds = split.sample(tokens)
    seconds, made = timed(partial(_estimated, split, ids, bounds))
    more, model = timed(partial(ngrams.assemble, made))
    peak = _peak(partial(ngrams.learn, ids, bounds, split.vocabulary, ORDER))
    scoring = min(timed(partial(_logs, model, split))[0] for _ in range(3))
    held, text = int(np.diff(split.bounds)[split.held].sum()), int(split.sizes[split.held].sum())
    return {
        "learnt_tokens": len(ids),
        "grams": model.grams,
        "bytes_per_gram": round(model.entries.nbytes / max(1, model.grams), 1),
        "learning_bytes_per_token": round(peak / len(ids)),
        "learn_mtokens_per_s_core": round(len(ids) / 1e6 / (seconds + more), 2),
        "score_mtokens_per_s_core": round(held / 1e6 / scoring, 2),
        "score_mb_per_s_core": round(text / 1e6 / scoring, 1),
    }, made


def _estimated(split: Split, ids: np.ndarray, bounds: np.ndarray) -> list[ngrams.Estimate]:
    stream = ngrams.stream(ids, bounds, split.vocabulary)
    return ngrams.estimate(ngrams.counted(stream, split.vocabulary, ORDER))


def _logs(model: ngrams.Model, split: Split) -> np.ndarray:
    at, to = split.bounds[split.held], split.bounds[split.held + 1]
    return ngrams.log_probabilities(model, split.ids, at, to)


def _peak(work: Callable[[], Any]) -> int:
    """Most bytes of arrays that a piece of work holds at once."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _compared(split: Split, tokens: int) -> Told:
    """Held-out perplexity of ours, of shorter n-grams, of half the sample, pruned, and of others."""
    models = {
        "unigrams": partial(_model, split, tokens, 1),
        "order 3": partial(_model, split, tokens, 3),
        f"order {ORDER}": partial(_model, split, tokens),
        f"order {ORDER}, seen once left out": partial(_model, split, tokens, ORDER, 1),
        f"order {ORDER}, half the tokens": partial(_model, split, tokens // 2),
        "stupid backoff (no probabilities)": partial(_stupid, split, tokens),
    }
    count = int(np.diff(split.bounds)[split.held].sum()) + len(split.held)
    return {n: round(float(np.exp(-_logs(m(), split).sum() / count)), 2) for n, m in models.items()}


def _stupid(split: Split, tokens: int) -> ngrams.Model:
    """Relative frequencies, times 0.4 for each word less of context (Brants et al. 2007)."""
    out, context = [], np.ones(1)
    for n, e in enumerate(_estimated(split, *split.sample(tokens)), 1):
        count = np.maximum(e.grams.count.astype(float), 0.5 if n == 1 else 0)
        context = np.full(1, count.sum()) if n == 1 else context
        backoff = np.full(len(count), 0.4 if n < ORDER else 1.0)
        out.append(replace(e, p=count / np.maximum(context[e.grams.prefix], 1), backoff=backoff))
        context = count if n > 1 else np.where(np.arange(len(count)) == ngrams.BEGIN, 1, count)
    return ngrams.assemble(out)


def _words(ids: np.ndarray) -> str:
    return " ".join([f"t{i}" for i in ids.tolist()])


def _by_kenlm(split: Split, made: list[ngrams.Estimate], store: Store) -> Told:
    """Its scores of the held-out documents, by our model as ARPA; differences of those below 5,000
    tokens, since it adds in float32."""
    import kenlm

    path = Path(store.path("ours.arpa"))
    with path.open("w") as out:
        out.writelines(line + "\n" for line in ngrams.arpa(made, "t{}".format))
    config = kenlm.Config()
    config.show_progress = False
    before = _resident()
    theirs = kenlm.Model(str(path), config)
    held = _resident() - before
    texts = [_words(split.ids[split.bounds[r] : split.bounds[r + 1]]) for r in split.held]
    seconds, found = min(
        (timed(lambda: [theirs.score(t) for t in texts]) for _ in range(3)), key=lambda r: r[0]
    )
    logs, lengths = _logs(ngrams.assemble(made), split), np.diff(split.bounds)[split.held] + 1
    apart = np.abs(np.array(found) * np.log(10) - logs) / lengths
    text = int(split.sizes[split.held].sum())
    return {
        "score_mtokens_per_s_core": round(int(lengths.sum()) / 1e6 / seconds, 2),
        "score_mb_per_s_core": round(text / 1e6 / seconds, 1),
        "bytes_per_gram": round(held / sum(int(e.kept.sum()) for e in made), 1),
        "largest_difference_per_token": float(f"{apart[lengths < 5000].max():.1e}"),
    }


def _by_lmplz(
    split: Split, tokens: int, made: list[ngrams.Estimate], store: Store, lmplz: str
) -> Told:
    """Its discounts and CPU time on the same documents."""
    ids, bounds = split.sample(tokens)
    path = Path(store.path("learnt.txt"))
    with path.open("w") as out:
        out.writelines(_words(ids[a:b]) + "\n" for a, b in pairwise(bounds))
    pad = str(split.vocabulary + 2)  # without <s>
    command = [lmplz, "-o", str(ORDER), "--discount_fallback", "--vocab_pad", pad, "-S", "1G"]
    files = ["-T", store.path("tmp"), "--text", str(path), "--arpa", store.path("theirs.arpa")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run([*command, *files], check=True, capture_output=True, text=True).stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(getattr(after, k) - getattr(before, k) for k in ("ru_utime", "ru_stime"))
    rows = re.findall(r"^\d+ \S+ D1=(\S+) D2=(\S+) D3\+=(\S+)$", told, re.MULTILINE)
    apart = np.abs(np.array(rows, float) - [e.discounts for e in made]).max()
    rate = round(len(ids) / 1e6 / seconds, 2)
    return {
        "learn_mtokens_per_s_core": rate,
        "largest_difference_of_discounts": float(f"{apart:.1e}"),
    }


def _box(files: Files, tails: int) -> Told:
    """The whole box, and the files in each language's tails."""
    job = bare_job(files.store, "perplexity")
    seconds, _ = timed(partial(perplexity.run, files, perplexity.Config(), job))
    made = stack(files, "perplexity", job.layers)
    names = ["perplexity", "length", "language", "repo", "path", "bytes"]
    table = pa.concat_tables([made.read(s, names) for s in made.shards])
    table = table.filter(pc.is_valid(table["perplexity"])).sort_by("perplexity")
    found = {}
    for language in job.facts["languages"] if tails else ():
        rows = table.filter(pc.equal(table["language"], language)).to_pylist()
        found[language] = {"lowest": rows[:tails], "highest": rows[::-1][:tails]}
    rate = round(int(pc.sum(table["bytes"]).as_py()) / 1e6 / seconds, 1)
    return {"mb_per_s_core": rate, "seconds": round(seconds, 1), "tails": found} | job.facts


def _lines(told: Told) -> Iterator[str]:
    ours, about = told["ours"], told["corpus"]
    yield f"{about['files']:,} files, {about['bytes'] / 1e6:.1f} MB, {about['source']}.\n"
    yield f"Learnt from {ours['learnt_tokens']:,} tokens: {ours['grams']:,} n-grams of 2 to {ORDER} words,"
    yield f"{ours['bytes_per_gram']} bytes each; {ours['learning_bytes_per_token']} bytes a token while learning.\n"
    yield "| | learning, Mtokens/s | scoring, Mtokens/s | scoring, MB/s | bytes an n-gram |"
    yield "|---|---|---|---|---|"
    rates = [f"{k}_per_s_core" for k in ("learn_mtokens", "score_mtokens", "score_mb")]
    for name in ("ours", "kenlm", "lmplz"):
        row = told.get(name, {})
        cells = [row.get(k, "") for k in (*rates, "bytes_per_gram")]
        if row:
            yield f"| {name} | {' | '.join(map(str, cells))} |"
    yield "\n| held-out perplexity | |\n|---|---|"
    yield from (f"| {n} | {p} |" for n, p in told["held_out"].items())
    box = told["box"]
    yield f"\nThe box, all of it: {box['mb_per_s_core']} MB/s. Per language: {box['languages']}"
    for language, tails in box["tails"].items():
        yield from _tails(language, tails)


def _tails(language: str, tails: dict[str, Sequence[Told]]) -> Iterator[str]:
    for name, rows in tails.items():
        yield f"\n{language}, {name}:\n"
        for row in rows:
            place = f"{row['repo']}/{row['path']}"
            yield f"- {row['perplexity']:.1f}, {row['length']:,} tokens: {place}"


if __name__ == "__main__":
    main()
