"""What the manifests and layers of a run say, as plain rows for the report.

Every function takes the run's steps in recipe order, made or not, and gives numbers: no words, no
markup. Knows nothing of how the steps were made.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.files import Files
from pipeline.core.runner import Artifact
from pipeline.core.store import Store

Row = dict[str, Any]
BINS = 20
"""Bars of a score histogram (ours)."""
LARGEST = 12
"""Languages or licences shown by name; the rest is one bar (ours)."""
CHOSEN = ("files", "tokens", "of_tokens", "lowest")
"""What is shown of a select step's numbers of a language."""
APART = 0.01
"""Relative difference from which one value without an interval is called better (ours)."""
SAMPLES, LINES, WIDTH = 5, 40, 160
"""Files shown from each end of the ranking, lines of each, characters of a line (ours)."""


@dataclass(frozen=True)
class Entry:
    """A step of the run; without an artifact, `missing` says why."""

    name: str
    stage: str
    artifact: Artifact | None
    missing: str = ""

    @property
    def manifest(self) -> Row:
        return self.artifact.manifest if self.artifact else {}

    @property
    def facts(self) -> Row:
        return self.artifact.facts if self.artifact else {}


def entries(store: Store, run: str, record: Row) -> list[Entry]:
    """The run's steps in order. One made from inputs that were since remade counts as missing."""
    out: list[Entry] = []
    current: set[str] = set()
    for name in record["steps"]:
        stage = record["raw"]["steps"][name]["use"]
        pointer = store.load("runs", run, f"{name}.json")
        manifest = pointer and store.load(pointer["stage"], pointer["key"], "manifest.json")
        if not pointer or not manifest:
            out.append(Entry(name, stage, None, "not made yet"))
        elif not current.issuperset(_leaves(manifest["identity"]["inputs"])):
            out.append(Entry(name, stage, None, "out of date: made from earlier inputs"))
        else:
            current.add(pointer["key"])
            out.append(Entry(name, stage, Artifact(store, pointer["stage"], pointer["key"])))
    return out


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        return
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _leaves(inner)


def made(steps: Sequence[Entry], stage: str) -> list[Entry]:
    """The steps of this box that are made."""
    return [s for s in steps if s.artifact and s.stage == stage]


@dataclass(frozen=True)
class Metric:
    """A row of the results: `facts["models"][model][part][key]`, and whether lower is better."""

    part: str
    key: str
    lower: bool = True

    def text(self, value: float | None) -> str:
        return "" if value is None else f"{value:.3f}" if self.lower else f"{value:.1%}"


METRICS = (
    Metric("bits_per_byte", "ordinary"),
    Metric("bits_per_byte", "quality"),
    Metric("bits_per_byte", "exercises"),
    Metric("middle", "without_suffix"),
    Metric("middle", "with_suffix"),
    Metric("ranking", "accuracy", lower=False),
    Metric("pass_at_1", "pass@1", lower=False),
)


def results(evaluated: Sequence[Entry]) -> Row | None:
    """The table of the last evaluation: a row a metric, a cell a model; None without one."""
    if not evaluated:
        return None
    facts = evaluated[-1].facts
    models = list(facts["models"].values())
    rows = [_result(metric, models, facts["texts"]) for metric in METRICS]
    told = [r for r in rows if any(c["text"] for c in r["cells"])]
    tiers = {m["pass_at_1"]["tier"] for m in models}
    return {"models": list(facts["models"]), "rows": told, "tiers": sorted(tiers)}


def _result(metric: Metric, models: Sequence[Row], texts: dict[str, int]) -> Row:
    parts = [m[metric.part] or {} for m in models]
    values = [p.get(metric.key) for p in parts]
    intervals = [p.get("interval") for p in parts]
    counts = {p[k] for p in parts for k in ("middles", "pairs", "tasks") if k in p}
    counts |= {texts[metric.key]} if metric.key in texts else set()
    best = winner(values, intervals, metric)
    cells = [
        {"text": metric.text(v), "interval": [metric.text(x) for x in i or ()], "best": k == best}
        for k, (v, i) in enumerate(zip(values, intervals, strict=True))
    ]
    change = _change(values[0], values[-1], metric)
    return {"key": metric.key, "n": sorted(counts), "cells": cells, "change": change}


def _change(first: float | None, last: float | None, metric: Metric) -> str:
    if first is None or last is None or (metric.lower and not first):
        return ""
    change = f"{last / first - 1:+.1%}" if metric.lower else f"{100 * (last - first):+.1f} points"
    return change.replace("-", "\N{MINUS SIGN}")


def winner(
    values: Sequence[float | None], intervals: Sequence[list[float] | None], metric: Metric
) -> int | None:
    """Which value is the best; None where another's interval overlaps its own or, without
    intervals, another is within APART of it."""
    ranked = sorted((v if metric.lower else -v, k) for k, v in enumerate(values) if v is not None)
    if len(ranked) < 2:
        return None
    best = ranked[0][1]
    mine = intervals[best]
    for value, k in ranked[1:]:
        other = intervals[k]
        overlap = mine and other and max(mine[0], other[0]) <= min(mine[1], other[1])
        alike = not (mine and other) and abs(value - ranked[0][0]) <= APART * abs(value)
        if overlap or alike:
            return None
    return best


def funnel(steps: Sequence[Entry]) -> list[Row]:
    """Rows and text bytes through every step that judges documents.

    `bytes` are the kept files' as ingested, `before` their parent's; `chain` is the step that wrote
    the documents; `left` counts rows that the manifest does not account for: always 0.
    """
    rows: dict[str, Row] = {}
    for step in steps:
        counts = step.manifest.get("rows")
        if step.artifact is None or not counts:
            continue
        parent = rows.get((step.manifest["parent"] or {}).get("key", ""))
        lost = counts["in"] - counts["kept"]
        kept = parent["bytes"] if parent and not lost else text_bytes(step.artifact.files)
        rows[step.artifact.key] = counts | {
            "name": step.name,
            "stage": step.stage,
            "chain": parent["chain"] if parent else step.name,
            "bytes": kept,
            "before": parent["bytes"] if parent else kept,
            "reasons": sorted(counts["dropped"].items(), key=lambda r: (-r[1], r[0])),
            "left": lost - sum(counts["dropped"].values()) - counts["quarantined"],
        }
    return list(rows.values())


def text_bytes(files: Files) -> int:
    """Bytes of the kept documents' text, as it was ingested."""
    sums = (pc.sum(files.read(shard, ["bytes"])["bytes"]).as_py() for shard in files.shards)
    return sum(n or 0 for n in sums)


def quality(steps: Sequence[Entry]) -> Row | None:
    """Scores by language, what was chosen by them, and sample files; None before annotate."""
    scored = made(steps, "annotate")
    if not scored or scored[0].artifact is None:
        return None
    files = scored[0].artifact.files
    tables = [files.read(s, ["quality", "language", "repo", "path"]) for s in files.shards]
    tables = [t.filter(t["quality"].is_valid()) for t in tables]  # a screen skips files
    chosen = {s.name: s.facts for s in made(steps, "select")}
    return {
        "chosen": chosen,
        "languages": scores(tables, [facts["languages"] for facts in chosen.values()]),
        "samples": samples(files, tables),
    }


def judge(steps: Sequence[Entry]) -> Row | None:
    """What the annotator was measured by: `gate` names the comparison that decides, of `measured`;
    None before it is trained."""
    found = next((s.facts for s in made(steps, "annotator")), None)
    return found and {"facts": found, "told": found["measured"][found["gate"]]}


def scores(tables: Sequence[pa.Table], chosen: Sequence[dict[str, Row]]) -> list[Row]:
    """Per language, most documents first: quartiles, histogram over 0..1, and what each select step
    chose (CHOSEN of its facts; None where it saw no such file)."""
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for table in tables:
        names, values = table["language"].to_numpy().astype(str), table["quality"].to_numpy()
        for name in np.unique(names):
            found[str(name)].append(values[names == name])
    rows = []
    for name, parts in sorted(found.items(), key=lambda p: (-sum(map(len, p[1])), p[0])):
        values = np.concatenate(parts)
        counts = np.histogram(np.clip(values, 0, 1), BINS, (0, 1))[0]
        row = {"name": name, "documents": len(values), "counts": counts.tolist()}
        row["quartiles"] = [float(q) for q in np.percentile(values, [25, 50, 75])]
        rows.append(row | {"chosen": [_chosen(facts.get(name)) for facts in chosen]})
    return rows


def _chosen(facts: Row | None) -> Row | None:
    return facts and {key: facts[key] for key in CHOSEN}


def samples(files: Files, tables: Sequence[pa.Table]) -> dict[str, list[Row]]:
    """The files of the highest and of the lowest scores with the start of their edited text."""
    ends: list[Row] = []
    for at, table in enumerate(tables):
        order = np.lexsort((table["uid"].to_numpy().astype(str), -table["quality"].to_numpy()))
        few = np.unique(np.r_[order[:SAMPLES], order[-SAMPLES:]])
        ends += [row | {"shard": at} for row in table.take(pa.array(few)).to_pylist()]
    ends.sort(key=lambda r: (-r["quality"], r["uid"]))
    each = min(SAMPLES, len(ends) // 2)
    shown = {"highest": ends[:each], "lowest": ends[len(ends) - each :][::-1]}
    texts = dict(_starts(files, [*shown["highest"], *shown["lowest"]]))
    return {k: [r | {"text": texts[r["uid"]]} for r in rows] for k, rows in shown.items()}


def _starts(files: Files, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for at in sorted({r["shard"] for r in rows}):
        table = files.read(files.shards[at], ["text"])
        places = {row: i for i, row in enumerate(table["row"].to_pylist())}
        for row in (r for r in rows if r["shard"] == at):
            yield row["uid"], start(table["text"][places[row["row"]]].as_py())


def start(text: str) -> str:
    """The first lines of a file, long ones cut, with a word on what is left out."""
    lines = text.splitlines()
    cut = [x if len(x) <= WIDTH else f"{x[:WIDTH]} …" for x in lines[:LINES]]
    more = len(lines) - LINES
    return "\n".join([*cut, f"… {more:,} more lines"] if more > 0 else cut)


def mix(tokenized: Sequence[Entry]) -> dict[str, list[Row]]:
    """Documents and tokens of the corpus by language and by licence, the largest first."""
    if not tokenized or tokenized[0].artifact is None:
        return {}
    files = tokenized[0].artifact.files
    tables = [files.read(s, ["language", "licence", "length"]) for s in files.shards]
    return {column: _largest(tables, column) for column in ("language", "licence")}


def _largest(tables: Sequence[pa.Table], column: str) -> list[Row]:
    documents: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for table in tables:
        sums = table.group_by(column).aggregate([("length", "sum"), ("length", "count")])
        for row in sums.to_pylist():
            documents[row[column] or "not stated"] += row["length_count"]
            tokens[row[column] or "not stated"] += row["length_sum"]
    ranked = sorted(tokens, key=lambda k: (-tokens[k], k))
    groups = {k: [k] for k in ranked[:LARGEST]}
    if rest := ranked[LARGEST:]:
        groups[f"{len(rest)} others"] = rest
    return [
        {"name": k, "documents": sum(documents[x] for x in g), "tokens": sum(tokens[x] for x in g)}
        for k, g in groups.items()
    ]


def cost(step: Entry) -> Row:
    """What a step took, and what identifies it; zeros for one that is not made."""
    found = step.manifest
    records = [r for layer in found.get("layers", []) for r in layer["shards"]]
    return {
        "name": step.name,
        "stage": step.stage,
        "missing": step.missing,
        "seconds": found.get("seconds", 0.0),
        "budget": found.get("budget"),
        "bytes": found.get("bytes", 0),
        "shards": len(records + (found.get("base") or [])),
        "kept_shards": found.get("kept_shards", 0),
        "key": found.get("key", ""),
        "digest": found.get("digest", ""),
    }
