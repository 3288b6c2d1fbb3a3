"""How fast files are judged: exact, in 8 bits, and behind a screen, against transformers' pipeline.

    python -m tests.bench.annotate --json

One annotator in two shapes (`wide`), a small BERT and a BERT-base of the same scores. The small one
says which files are the best and what screens learn from, each screen from four fifths of the files;
its scores are kept in `--cache`, so that a longer run goes on. Seconds are the wide one's, those of the
screened and of the 8-bit way of `annotate.score` as a recipe calls it, with a screen that has not seen
the files; the rival's are by window, on windows of the same files.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from transformers import pipeline as transformers_pipeline

from pipeline import annotate
from pipeline.core.schema import digest
from pipeline.model import cascade
from pipeline.model.scorer import Scorer, frame, windows
from tests.bench import corpus
from tests.bench.screened import AGAIN, FOLDS, SHARE, Ready, fold, prepared, share
from tests.bench.wide import LAYERS, WIDTH, WINDOW, annotator, widened

BATCH = 32
"""The rival's."""
F64 = NDArray[np.float64]
Spent = dict[str, list[float]]


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    table = distinct(corpus.load(given.corpus, given.limit)).slice(0, given.files)
    given.cache.mkdir(parents=True, exist_ok=True)
    small = annotator(table, given)
    wide = given.cache / f"wide-{small.name}"
    if not wide.exists():
        widened(small, wide)
    result: dict[str, Any] = {}
    rest = table.slice(given.train)
    with tempfile.TemporaryDirectory(prefix="screens-") as folder:
        ready, told = prepared(rest, small, Path(folder), given)
        result |= told | timed(rest, wide, ready, given)
    result |= memory(table, small, given.threads)
    result["corpus"] = corpus.described(table, given.corpus)
    result["versions"] = corpus.versions("torch", "transformers", "tokenizers", "numba")
    corpus.tell(result, [shown(result)], given)


def _parser() -> argparse.ArgumentParser:
    made = corpus.parser(__doc__, "60M")
    made.add_argument("--encoder", type=Path, help="a folder with a BERT and its tokenizer.json")
    made.add_argument("--files", type=int, default=3000, help="files in all")
    made.add_argument("--train", type=int, default=500, help="of them, to train the head on")
    made.add_argument(
        "--again", type=int, default=20, help="files a round in 8 bits without a screen"
    )
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "icefloe-annotate"))
    return made


def distinct(table: pa.Table) -> pa.Table:
    """Files of different texts, by their hash: a random order that a larger corpus keeps."""
    keys = [digest(text) for text in table["text"].to_pylist()]
    first = {key: at for at, key in reversed(list(enumerate(keys)))}
    table = table.take([first[key] for key in sorted(first)])
    return table.append_column("uid", pa.array(sorted(first)))


def peak() -> float:
    """The most multiply-adds a second (times two) that torch.mm or oneDNN's own product reaches."""
    x, w = torch.randn(2048, 2048), torch.randn(2048, 2048)
    works = [lambda: torch.mm(x, w)]
    if torch.backends.mkldnn.is_available():
        laid = torch.ops.mkldnn._reorder_linear_weight(w, len(x))
        works.append(lambda: torch.ops.mkldnn._linear_pointwise(x, laid, None, "none", [], ""))
    with torch.inference_mode():
        return float(2 * 2048**3 / min(seconds(work) for work in works for _ in range(8)))


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pieces(scorer: Scorer, texts: Sequence[str], count: int) -> list[str]:
    """`count` windows of the texts, as texts that are one window each."""
    out = list[str]()
    before, after = frame(scorer.tokenizer)
    body = scorer.window - len(before) - len(after)
    for text in texts:
        ends = scorer.tokenizer.encode(text, add_special_tokens=False).offsets
        starts = sorted({0, max(0, (len(ends) - body) // 2), max(0, len(ends) - body)})
        for start in starts if len(ends) > body else [0]:
            piece = text[ends[start][0] : ends[min(start + body, len(ends)) - 1][1]] if ends else ""
            again = scorer.tokenizer.encode(piece, add_special_tokens=False).offsets
            out.append(piece if len(again) <= body else piece[: again[body - 1][1]])
        if len(out) >= count:
            break
    return out[:count]


def timed(table: pa.Table, wide: Path, ready: Ready, given: argparse.Namespace) -> dict[str, Any]:
    """Five rounds: the rival and the plain ways on the same batch of windows of a fifth of the files,
    then annotate's own function on that fifth, screen and all, and on some of it in 8 bits."""
    scorers = {p: Scorer(wide, threads=given.threads, precision=p) for p in ("exact", "int8")}
    rival = transformers_pipeline("text-classification", model=str(wide), top_k=None)
    ways = {"transformers": partial(_rival, rival)}
    ways |= {name: partial(_scores, scorer) for name, scorer in scorers.items()}
    spent: Spent = {name: [] for name in (*ways, "cascade", "again")}
    values: Spent = {name: [] for name in ways}
    texts, chosen = list[str](), np.full(len(table), -1.0)
    for way in ways.values():
        way(["x = 1"])
    for k in range(FOLDS):
        print(f"round {k + 1} of {FOLDS}", file=sys.stderr, flush=True)
        mine = np.flatnonzero(fold(len(table)) == k)
        part = table.take(pa.array(mine))
        texts += (batch := pieces(scorers["exact"], part["text"].to_pylist(), BATCH))
        for name, way in ways.items():
            start = time.perf_counter()
            values[name] += way(batch)
            spent[name].append((time.perf_counter() - start) / len(batch))
        boxed = partial(_boxed, wide=str(wide), least=float(ready.least[k]), given=given)
        took, chosen[mine] = boxed(part, screen=ready.screens[k])
        spent["cascade"].append(took / ready.windows[mine].sum())
        took, _ = boxed(part.slice(0, given.again), screen=None)
        spent["again"].append(took / ready.windows[mine[: given.again]].sum())
    plain = _compared(spent, values, texts, scorers["exact"])
    return plain | _whole(spent, chosen, ready, given)


def _whole(spent: Spent, chosen: F64, ready: Ready, given: argparse.Namespace) -> dict[str, Any]:
    """The whole runs: seconds by all windows of the files, also those that no encoder read."""
    many = np.bincount(fold(len(chosen)), ready.windows)
    rival, cascaded = (np.array(spent[name]) for name in ("transformers", "cascade"))
    found = cascade.best(chosen, ready.sample.length, ready.sample.language, SHARE)
    return {
        "files": len(chosen),
        "files_int8": FOLDS * given.again,
        "ratio_cascade": round(float((rival * many).sum() / (cascaded * many).sum()), 2),
        "ratios_cascade": (rival / cascaded).round(2).tolist(),
        "ratio_int8": round(float(np.median(rival / spent["again"])), 3),
        "recall": share(ready.top, found),
        "passed": share(ready.top, chosen >= 0),
        "skipped": round(float((chosen < 0).mean()), 4),
        "scored_again": AGAIN,
    }


def _rival(rival: Any, part: list[str]) -> list[float]:
    judged = rival(part, batch_size=BATCH, truncation=True, max_length=WINDOW)
    return [next(s["score"] for s in found if s["label"] == "LABEL_1") for found in judged]


def _scores(scorer: Scorer, part: list[str]) -> list[float]:
    return [s.score for s in scorer.score(part)]


def _boxed(
    table: pa.Table, screen: str | None, wide: str, least: float, given: argparse.Namespace
) -> tuple[float, F64]:
    """Seconds of annotate's own function, its models loaded beforehand; and its scores, -1 for none."""
    cfg = annotate.Config(precision="int8", exact_from=least, threads=given.threads)
    annotate.score(table.slice(0, 1), wide, cfg, screen)
    start = time.perf_counter()
    found = annotate.score(table, wide, cfg, screen)
    took = time.perf_counter() - start
    return took, pc.fill_null(found["quality"], -1.0).to_numpy().astype(np.float64)


def _compared(
    spent: dict[str, list[float]],
    values: dict[str, list[float]],
    texts: list[str],
    scorer: Scorer,
) -> dict[str, Any]:
    """The plain ways, window by window; medians over the rounds."""
    lengths = [len(cut.rows[0]) for cut in windows(scorer.tokenizer, texts, WINDOW)]
    ratio = {
        name: statistics.median(
            r / own for r, own in zip(spent["transformers"], spent[name], strict=True)
        )
        for name in values
    }
    each = {name: statistics.median(spent[name]) for name in values}
    work, gflops = float(np.mean([_operations(n) for n in lengths])), peak() / 1e9
    gap = np.abs(np.array(values["exact"]) - values["transformers"])
    return {
        "windows": len(texts),
        "full_windows": round(float(np.mean(np.array(lengths) == WINDOW)), 3),
        "seconds": each,
        "ratio_exact": round(ratio["exact"], 3),
        "max_diff": float(gap.max()),
        "gemm_share": round(work / each["exact"] / gflops / 1e9, 3),
        "peak_gflops": round(gflops),
        "ratio_int8_alone": round(ratio["int8"], 3),
        "max_diff_int8": float(np.abs(np.array(values["int8"]) - values["exact"]).max()),
    }


def _operations(tokens: int) -> float:
    """Floating-point operations of one window's products, the last layer's first place alone."""
    layer = 24 * WIDTH**2 * tokens + 4 * WIDTH * tokens**2
    last = 4 * WIDTH**2 * tokens + 20 * WIDTH**2 + 4 * WIDTH * tokens
    return float((LAYERS - 1) * layer + last)


def memory(table: pa.Table, small: Path, threads: int) -> dict[str, Any]:
    """Peak resident memory of a process that scores some files, and four times as many, in one call."""
    texts = [text[:600] for text in table["text"].to_pylist()[:2048]]
    found = [_peak(small, texts[: len(texts) // parts], threads) for parts in (4, 1)]
    return {
        "peak_mb": found[0],
        "peak_mb_4x": found[1],
        "peak_ratio": round(found[1] / found[0], 3),
    }


def _peak(small: Path, texts: list[str], threads: int) -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_resident, small, texts, threads).result()


def _resident(small: Path, texts: list[str], threads: int) -> int:
    Scorer(small, threads=threads).score(texts)
    status = Path(
        "/proc/self/status"
    ).read_text()  # getrusage's peak counts the parent's before exec
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def shown(result: dict[str, Any]) -> str:
    """The tables: ways to score, and recall against cost."""
    each, source = result["seconds"], result["corpus"]
    told = [
        ("transformers.pipeline, batch 32", 1.0, ""),
        ("exact", result["ratio_exact"], f"largest difference {result['max_diff']:.1e}"),
        (
            "int8",
            result["ratio_int8_alone"],
            f"{result['int8_alone_top_overlap']:.1%} of exact's best",
        ),
        (
            f"int8, {result['scored_again']:.0%} again exactly",
            result["ratio_int8"],
            f"{result['int8_top_overlap']:.1%} of exact's best",
        ),
        (
            "screen, int8, then exact",
            result["ratio_cascade"],
            f"{result['recall']:.1%} of the best chosen, {result['passed']:.1%} passed the screen",
        ),
    ]
    lines = [
        f"{source['files']:,} files, {source['bytes'] / 1e6:.1f} MB: {source['source']}",
        f"{result['windows']} windows timed, {result['full_windows']:.0%} full: a BERT-base took "
        f"{each['transformers']:.3f} s each with transformers, {each['exact']:.3f} exact, "
        f"{each['int8']:.3f} in 8 bits; exact reaches {result['gemm_share']:.0%} of the "
        f"{result['peak_gflops']} GFLOP/s that products reach here",
        f"{result['files']:,} files in five rounds, {result['best']} of them the best share; the screens, "
        f"each without its files, skip {result['skipped']:.1%} of them and correlate "
        f"{result['correlation']}. {result['files_int8']} of them whole in 8 bits, the overlap is of all",
        f"Peak memory {result['peak_mb']} MB, with four times the files {result['peak_mb_4x']} MB",
        "",
        "| | times as fast | |",
        "|---|---|---|",
        *[f"| {name} | {ratio:.2f} | {note} |" for name, ratio, note in told],
        "",
        "| recall of the best | windows left to the encoder |",
        "|---|---|",
        *[f"| {row['recall']:.0%} | {row['cost']:.1%} |" for row in result["curve"]],
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
