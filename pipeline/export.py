"""The release: the model, the annotator that chose its data with the corpus's scores, cards, a table
of all checkpoints.

Ordinary folders in Hugging Face layout; nothing of ours is needed to load them. The cards are
written from the manifests, so they state what was done (Crystal's release discipline).
"""

import csv
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrays import halves
from pipeline.core.config import config
from pipeline.core.files import Files, read_shard
from pipeline.core.job import Job
from pipeline.core.runner import Artifact
from pipeline.core.store import Store
from pipeline.kernels.cuts import Group, Work
from pipeline.kernels.standing import ALL, standing

VERSION = 4


@config
class Config:
    name: str = "icefloe-model"
    """What the model calls itself in its card and over HTTP."""
    licence: str = "apache-2.0"
    """Licence of the weights, as the model card states it (yours to decide)."""


def run(
    model: Annotated[Artifact, "train"],
    annotator: Annotated[Artifact, "annotator", "forest"],
    phases: dict[str, Annotated[Artifact, "train"]],
    files: Files,
    cfg: Config,
    job: Job,
    scores: Annotated[Artifact, "evaluate"] | None = None,
    scored: Files | None = None,
) -> None:
    for name, source in (("model", model.folder / "model"), ("annotator", annotator.folder)):
        shutil.rmtree(job.folder / name, ignore_errors=True)
        shutil.copytree(source, job.folder / name, ignore=shutil.ignore_patterns("manifest.json"))
    told = _add(job.folder / "model" / "icefloe.json", {"name": cfg.name})
    judge = _add(job.folder / "annotator" / "annotator.json", {"data": annotator.digest})
    if scored is not None:
        place = standing(partial(visit, scored, judge.get("column", "quality"), job))
        (job.folder / "annotator" / "scores.json").write_text(json.dumps(place) + "\n")
    results = scores.facts["models"] if scores else {}
    (job.folder / "model" / "README.md").write_text(model_card(cfg, phases, results, annotator))
    (job.folder / "DATA.md").write_text(data_card(cfg, files, job))
    _checkpoints(job.folder / "checkpoints.csv", phases)
    job.facts |= {"name": cfg.name, "tokens": model.facts["tokens_seen"], "phase": told["phase"]}


def _add(card: Path, more: dict[str, Any]) -> dict[str, Any]:
    told = dict(json.loads(card.read_text())) | more
    card.write_text(json.dumps(told, indent=1) + "\n")
    return told


def visit(files: Files, column: str, job: Job, work: Work) -> Iterator[tuple[str, Any]]:
    """(language, what `work` makes of its scores) for each shard, and as much for all languages."""
    for found in job.shards(partial(_visit, files.store, column, work), files):
        yield from found["languages"]


def _visit(store: Store, column: str, work: Work, item: dict[str, Any]) -> dict[str, Any]:
    table = read_shard(store, item["shard"], ["language", column])
    names = pc.fill_null(table["language"], "not stated").to_numpy(zero_copy_only=False)
    values = pc.cast(table[column], pa.float64()).to_numpy()[:, None]
    uids, ones = halves(table["uid"]), np.ones(len(table), np.int64)
    parts = {ALL: slice(None)} | {str(n): names == n for n in np.unique(names)}
    groups = {n: Group(values[p], ones[p], uids[p]) for n, p in parts.items()}
    return {"languages": [(n, work(n, g)) for n, g in groups.items()]}


def model_card(
    cfg: Config,
    phases: dict[str, Annotated[Artifact, "train"]],
    results: dict[str, Any],
    annotator: Artifact,
) -> str:
    """The model's README.md: front matter, phases, results, limits."""
    rows = [
        f"| {name} | {a.facts['steps']} | {a.facts['tokens']:,} | {a.facts['loss_last']:.3f} |"
        for name, a in phases.items()
    ]
    return "\n".join(
        [
            "---",
            f"license: {cfg.licence}",
            "pipeline_tag: text-generation",
            "library_name: transformers",
            "tags: [code, icefloe]",
            "---",
            "",
            f"# {cfg.name}",
            "",
            "A causal language model of code, trained in phases of ever better data after Arctic-SnowCoder "
            "(arXiv 2409.02326).",
            "",
            "| phase | steps | tokens | last loss |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Beside it lies an annotator of code with ROC-AUC "
            f"{annotator.facts['auc']:.3f} on {_MEASURED[annotator.facts['gate']]}.",
            "",
            *_results(results),
            "Fill-in-the-middle prompt: `<|fim_prefix|>` before `<|fim_suffix|>` after `<|fim_middle|>`.",
            "",
            "Generated code may be wrong or unsafe; run it in a sandbox.",
            "",
        ]
    )


_MEASURED = {"proof": "good code that it never learnt from", "held_out": "held-out repositories"}


def _results(results: dict[str, Any]) -> list[str]:
    if not results:
        return []
    first = next(iter(results.values()))["bits_per_byte"]
    head = "| phase | " + " | ".join(f"bits per byte, {name}" for name in first) + " |"
    rows = [
        f"| {name} | " + " | ".join(f"{v:.3f}" for v in r["bits_per_byte"].values()) + " |"
        for name, r in results.items()
    ]
    return [head, "|---" * (len(first) + 1) + "|", *rows, ""]


def data_card(cfg: Config, files: Files, job: Job) -> str:
    """What the model was trained on: documents, repositories and licences by language."""
    table = [
        t.drop_columns(["row", "uid"])
        for t in job.collect(files, None, ["language", "repo", "licence", "bytes"])
    ]
    rows = [r for t in table for r in t.to_pylist()]
    by_language: dict[str, list[int]] = {}
    for row in rows:
        seen = by_language.setdefault(row["language"], [0, 0])
        seen[0], seen[1] = seen[0] + 1, seen[1] + row["bytes"]
    licences = sorted({str(r["licence"]) for r in rows})
    lines = [
        f"| {k} | {n:,} | {b:,} |"
        for k, (n, b) in sorted(by_language.items(), key=lambda x: -x[1][1])
    ]
    return "\n".join(
        [
            f"# Data of {cfg.name}",
            "",
            f"{len(rows):,} documents of {len({r['repo'] for r in rows}):,} repositories.",
            "",
            "| language | documents | bytes |",
            "|---|---|---|",
            *lines,
            "",
            f"Licences, as their sources state them: {', '.join(licences)}.",
            "",
        ]
    )


def _checkpoints(path: Path, phases: dict[str, Artifact]) -> None:
    """Every kept checkpoint of every phase (as OLMo and Crystal publish): `path` is in the
    phase's folder, `tokens` are all that the model had seen, `digest` is of the phase's content."""
    from pipeline.model import kept

    with open(path, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["phase", "step", "tokens", "loss", "path", "digest"])
        for name, a in phases.items():
            before = a.facts["tokens_seen"] - a.facts["tokens"]
            for r in kept.table(a.folder):
                told = (r["step"], before + r["tokens"], r["loss"])
                out.writerow([name, *told, r["path"], a.digest])
