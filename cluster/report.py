"""The page of a run: what came out, where every file went, how training went, how to do it again.

One self-contained HTML file that needs no network, written beside the run's pointers at any moment
of a run. Words, looks and charts are in report.html.j2, the numbers come from `findings` and `curves`.
"""

import platform
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cluster import curves, findings, look, runs
from cluster.findings import Entry
from cluster.start import cores
from pipeline.core.store import Store


def write(store: Store, run: str) -> str:
    """Write `runs/<run>/report.html` into the store and return its full path.

    Steps that are not made yet are shown as missing. RecipeError when there is no such run.
    """
    record = dict(store.load("runs", runs.named(store, run), "run.json") or {})
    page = render(run, record, findings.entries(store, run, record), store.uri)
    store.replace(page.encode(), "runs", run, "report.html")
    return store.path("runs", run, "report.html")


def render(run: str, record: dict[str, Any], steps: Sequence[Entry], uri: str) -> str:
    """The page as text."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"short": short, "size": size, "duration": duration, "rate": rate}
    return env.get_template("report.html.j2").render(
        run=run,
        recipe_file=f"{record['recipe']}.yaml",
        command=command(record),
        uri=uri,
        recipe=written(record),
        results=findings.results(findings.made(steps, "evaluate")),
        funnel=findings.funnel(steps),
        tokens=next((s.facts["tokens"] for s in findings.made(steps, "tokenize")), None),
        looks=look.sections([(s.name, s.artifact) for s in steps if s.artifact]),
        said=look.said,
        judge=findings.judge(steps),
        quality=findings.quality(steps),
        phases=curves.phases(findings.made(steps, "train")),
        checkpoints=curves.checkpoints(findings.made(steps, "train")),
        mix=findings.mix(findings.made(steps, "tokenize")),
        costs=[findings.cost(s) for s in steps],
        environment=environment(steps),
        when=max((s.manifest["made"] for s in steps if s.artifact), default=None),
        plotly=get_plotlyjs(),
    )


def command(record: dict[str, Any]) -> str:
    """How the run was started."""
    overlays = [word for name in record["overlays"] for word in ("--with", name)]
    return shlex.join(["icefloe", "run", record["recipe"], *overlays, *record["overrides"]])


def written(record: dict[str, Any]) -> str:
    """The recipe as it ran, overlays and overrides in it, in a form that can be run again."""
    return str(
        yaml.safe_dump(
            record["raw"], sort_keys=False, default_flow_style=None, width=100, allow_unicode=True
        )
    )


def environment(steps: Sequence[Entry]) -> dict[str, str]:
    """This machine, and the library versions of all steps (several where they differ)."""
    found: dict[str, set[str]] = defaultdict(set)
    for step in steps:
        for name, version in step.manifest.get("versions", {}).items():
            found[name].add(version)
    versions = {name: ", ".join(sorted(seen)) for name, seen in found.items()}
    here = {"python": platform.python_version(), "platform": platform.platform()}
    return here | {"cores": str(cores())} | versions


def short(number: float) -> str:
    """1234567 -> `1.23 M`."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.0f}"


def rate(value: float | None, scale: float = 1) -> str:
    """`0.912`, or per cent with one digit at scale 100; a dash for what was not measured."""
    return "–" if value is None else f"{value:.3f}" if scale == 1 else f"{scale * value:.1f}"


def size(number: float) -> str:
    """Bytes in decimal units: `8.64 MB`."""
    return f"{short(number).replace('B', 'G')}{'B' if number >= 1000 else ' B'}"


def duration(seconds: float) -> str:
    """`9.4 s`, `3 min 12 s`, `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"
