"""The page of a run: what came out, where every file went, how training went, how to do it again.

One self-contained HTML file that needs no network, written beside the run's pointers. It reads
manifests, layers and training metrics only, so it can be made at any moment of a run.
"""

import html
import json
import math
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cluster.start import cores
from pipeline.core.errors import StageError, did_you_mean
from pipeline.core.files import Files
from pipeline.core.runner import Artifact
from pipeline.core.store import Store

Row = dict[str, Any]
Figure = dict[str, Any]
POINTS = 1500
"""Points of a curve at most; more cannot be told apart on a screen (ours)."""
BINS = np.linspace(0, 1, 41)
LARGEST = 12
"""Languages or licences named in a chart; the rest is one bar (ours)."""
SAMPLES, LINES, WIDTH = 5, 40, 160
"""Files shown from each end of the ranking, lines of each, characters of a line (ours)."""
COLORS = [f"var(--c{i})" for i in range(1, 7)]
"""The page's script puts the values for a light or dark screen in their place."""
BOXES = {
    "ingest": "read source files",
    "redact": "mask personal data and secrets",
    "filter": "leave out files that are no hand-written code",
    "dedup": "keep one of each group of copies",
    "decontaminate": "leave out what overlaps test tasks",
    "holdout": "set repositories apart for measuring",
    "perplexity": "leave out what a model finds odd",
    "tokenizer": "learn the vocabulary",
    "tokenize": "cut text into tokens",
    "annotator": "learn to tell good files",
    "annotate": "score every file",
    "select": "choose the best of each language",
    "synthesise": "write new documents from chosen ones",
    "pack": "lay out training sequences",
    "train": "train the model",
    "evaluate": "measure the models",
    "export": "write the release",
}
RULES = {
    "not_source": "no source code",
    "language": "another language",
    "licence": "licence not permissive",
    "exact": "exact copy",
    "near": "near copy",
    "overlap": "overlaps a test task",
    "heldout": "set apart for measuring",
    "near_heldout": "near copy of a file set apart",
    "below_quota": "below the best",
    "data": "data, not code",
    "encoded": "encoded data",
}
"""Plain words for rules whose names need them; the others are shown by name."""


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


def write(store: Store, run: str) -> str:
    """Write `runs/<run>/report.html` into the store and return its full path.

    Steps that are not made yet are shown as missing. StageError when there is no such run.
    """
    record = store.load("runs", run, "run.json")
    if record is None:
        known = did_you_mean(run, store.list("runs"))
        raise StageError(f"no run {run!r} in {store.uri}{known}; run its recipe first")
    page = render(run, record, entries(store, run, record), store.uri)
    store.replace(page.encode(), "runs", run, "report.html")
    return store.path("runs", run, "report.html")


def entries(store: Store, run: str, record: Row) -> list[Entry]:
    """The run's steps in order. One made from inputs that were since remade counts as missing."""
    out: list[Entry] = []
    current: set[str] = set()
    for name in record["steps"]:
        stage = record["raw"]["steps"][name]["use"]
        pointer = store.load("runs", run, f"{name}.json")
        manifest = pointer and store.load(pointer["stage"], pointer["key"], "manifest.json")
        if not manifest:
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
    else:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)


def of_stage(steps: Sequence[Entry], *stages: str) -> list[Entry]:
    """The made steps of these boxes, in order."""
    return [s for s in steps if s.artifact and s.stage in stages]


def render(run: str, record: Row, steps: Sequence[Entry], uri: str) -> str:
    """The page as text."""
    ledger = funnel(steps)
    shown = {
        "results": results(of_stage(steps, "evaluate")),
        "funnel": ledger,
        "quality": quality(steps),
        "phases": phases(of_stage(steps, "train")),
        "data": mix(of_stage(steps, "tokenize")[:1]),
        "costs": [cost(s) for s in steps],
    }
    figures = {
        "funnel": funnel_figure([r for r in ledger if r["chain"] == ledger[0]["chain"]]),
        "scores": shown["quality"].pop("figure", None),
        "curves": curves_figure(shown["phases"]),
        **{name: bars_figure(parts) for name, parts in shown["data"].items()},
        "seconds": seconds_figure([c for c in shown["costs"] if c["made"]]),
    }
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"short": short, "size": size, "duration": duration, "share": share}
    return env.get_template("report.html.j2").render(
        run=run,
        **shown,
        head=head(steps, shown),
        environment=environment(steps),
        recipe=yaml.safe_dump(record["raw"], sort_keys=False, width=100, allow_unicode=True),
        command=_command(record),
        file=f"{Path(record['recipe']).stem}.yaml",
        uri=uri,
        figures={k: f for k, f in figures.items() if f},
        plotly=get_plotlyjs(),
    )


def _command(record: Row) -> str:
    return " ".join(["icefloe run", record["recipe"], *(f"--with {o}" for o in record["overlays"])])


def head(steps: Sequence[Entry], shown: Row) -> Row:
    """The summary: one sentence, and the numbers to remember as (value, label)."""
    tiles: list[tuple[str, str]] = []
    if shown["funnel"]:
        first = shown["funnel"][0]
        main = [r for r in shown["funnel"] if r["chain"] == first["chain"]]
        kept = next((r for r in main if r["stage"] == "tokenize"), main[-1])
        tiles += [(f"{first['in']:,}", "files found"), (f"{kept['kept']:,}", "documents kept")]
        tiles += [(size(kept["bytes"]), "of text kept")]
    tiles += [(short(s.facts["tokens"]), "tokens of text") for s in of_stage(steps, "tokenize")[:1]]
    if shown["phases"]:
        trained = sum(p["tokens"] for p in shown["phases"])
        tiles += [(short(trained), f"tokens trained on, {_several(shown['phases'], 'phase')}")]
    if shown["results"]:
        row = shown["results"]["rows"][0]
        tiles += [(row["cells"][-1]["text"], f"{row['title']} ({shown['results']['models'][-1]})")]
    seconds = sum(c["seconds"] for c in shown["costs"])
    made = [s for s in steps if s.artifact]
    return {
        "tiles": [*tiles, (duration(seconds), "of work in all")],
        "made": len(made),
        "missing": [s.name for s in steps if not s.artifact],
        "when": max((s.manifest["made"] for s in made), default=None),
        "sentence": sentence(steps, shown),
    }


def sentence(steps: Sequence[Entry], shown: Row) -> str:
    """What came out of the run, in one sentence made of the parts there are."""
    said = []
    if shown["funnel"]:
        first = shown["funnel"][0]
        main = [r for r in shown["funnel"] if r["chain"] == first["chain"]]
        kept = next((r for r in main if r["stage"] == "tokenize"), main[-1])
        said.append(f"Of {first['in']:,} files, {kept['kept']:,} documents were kept")
    if shown["phases"]:
        last = shown["phases"][-1]
        said.append(
            f"a {last['model']} model was trained on them in {_several(shown['phases'], 'phase')}"
        )
    if shown["results"] and len(shown["results"]["models"]) > 1:
        row = shown["results"]["rows"][0]
        cells = [c["text"] for c in row["cells"]]
        said.append(f"its {row['title']} went from {cells[0]} after the first to {cells[-1]}")
    return ", ".join(said) + "." if said else "Nothing has been made yet."


def _several(things: Sequence[Any], word: str) -> str:
    return f"{len(things)} {word}" + ("" if len(things) == 1 else "s")
