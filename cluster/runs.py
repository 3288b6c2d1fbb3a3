"""What a run is on disk: its record, its steps' manifests, and the tables that show them."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.core.errors import RecipeError, did_you_mean
from pipeline.core.recipe import Recipe, names
from pipeline.core.runner import Artifact, Planned
from pipeline.core.store import Store

log = logging.getLogger(__name__)


def record(
    store: Store, recipe: Recipe, planned: list[Planned], overlays: list[str], overrides: list[str]
) -> None:
    """Note what is being run, and every step's key: a pointer to another key is of older settings."""
    told = {
        "recipe": recipe.name,
        "overlays": overlays,
        "overrides": overrides,
        "raw": recipe.raw,
        "steps": names(recipe.steps),
        "keys": {p.step.name: p.key for p in planned},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    store.replace(json.dumps(told).encode(), "runs", recipe.name, "run.json")


def named(store: Store, run: str | None) -> str:
    """The run of that name, or the latest; RecipeError when there is none."""
    known = [r for r in store.list("runs") if store.exists("runs", r, "run.json")]
    if run is None and known:
        return max(known, key=lambda r: str((store.load("runs", r, "run.json") or {})["started"]))
    if not known:
        raise RecipeError(
            f"store {store.uri} holds no run yet; icefloe run snowcoder --with laptop"
        )
    if run not in known:
        raise RecipeError(f"no run {run!r} in store {store.uri}{did_you_mean(run or '', known)}")
    return str(run)


def step_names(store: Store, run: str) -> list[str]:
    """The run's steps in order, made or not."""
    return list((store.load("runs", run, "run.json") or {})["steps"])


def artifact(store: Store, run: str, step: str) -> Artifact:
    """What a step of a run made; RecipeError when the run has not (yet) made it."""
    pointer = _pointer(store, run, step)
    if pointer is None:
        known = step_names(store, run)
        more = did_you_mean(step, known) if step not in known else "; run the recipe to make it"
        raise RecipeError(f"run {run} has not made a step {step!r}{more}")
    return Artifact(store, pointer["stage"], pointer["key"])


def _pointer(store: Store, run: str, step: str) -> dict[str, str] | None:
    """Where the step's artifact is, if it was made with the run's present settings."""
    pointer = store.load("runs", run, f"{step}.json")
    keys = (store.load("runs", run, "run.json") or {}).get("keys", {})
    return pointer if pointer and pointer["key"] == keys.get(step) else None


def made(store: Store, run: str) -> list[tuple[str, Artifact]]:
    """(step, artifact) of every step made so far, in order."""
    there = [s for s in step_names(store, run) if _pointer(store, run, s)]
    return [(s, artifact(store, run, s)) for s in there]


def steps(store: Store, run: str) -> list[dict[str, Any]]:
    """One entry a made step: step, stage, key, path, seconds, rows (where it counts rows), bytes."""
    return [_entry(store, name, a) for name, a in made(store, run)]


def _entry(store: Store, step: str, a: Artifact) -> dict[str, Any]:
    m = a.manifest
    entry = {
        "step": step,
        "stage": a.stage,
        "key": a.key,
        "path": store.path(a.stage, a.key),
        "seconds": m["seconds"],
    }
    return (
        entry
        | ({"rows": m["rows"]} if m["rows"] else {})
        | {"bytes": m["bytes"], "digest": m["digest"]}
    )


def look(store: Store, name: str | None) -> Any:
    """Runs; a run's steps; or one step's manifest: whichever `name` means."""
    known = [r for r in store.list("runs") if store.exists("runs", r, "run.json")]
    if name is None:
        return {"runs": [{"run": r, **_progress(store, r)} for r in known]}
    if name in known:
        return steps(store, name)
    run, slash, step = name.partition("/")
    if not slash:
        run, step = named(store, None), name
    shown = artifact(store, named(store, run), step).manifest
    return {k: v for k, v in shown.items() if k not in ("base", "layers")} | {
        "shards": len(shown["base"] or (shown["layers"][0]["shards"] if shown["layers"] else []))
    }


def _progress(store: Store, run: str) -> dict[str, Any]:
    told = store.load("runs", run, "run.json") or {}
    return {
        "started": told["started"],
        "overlays": told["overlays"],
        "made": len(made(store, run)),
        "steps": len(told["steps"]),
    }


def print_look(data: Any, out: Console) -> None:
    """`look`'s answer for people."""
    if isinstance(data, list):
        out.print(steps_table(data))
    elif "runs" in data:
        table = _table("run", "started", "overlays", "made")
        for r in data["runs"]:
            told = escape(r["run"]), r["started"], escape(", ".join(r["overlays"]))
            table.add_row(*told, f"{r['made']}/{r['steps']}")
        out.print(table)
    else:
        out.print_json(data=data)


def steps_table(entries: list[dict[str, Any]]) -> Table:
    table = _table("step", "box", "key", "seconds", "bytes", "rows in", "kept", "bad", "dropped")
    for e in entries:
        rows = e.get("rows")
        counts = [f"{rows[k]:,}" for k in ("in", "kept", "quarantined")] if rows else [""] * 3
        told = [f"{e['seconds']:.1f}", f"{e['bytes']:,}", *counts, drops(rows) if rows else ""]
        table.add_row(e["step"], e["stage"], e["key"], *told)
    return table


def _table(*columns: str) -> Table:
    numbers = ("seconds", "bytes", "rows in", "kept", "bad")
    table = Table(box=None, pad_edge=False)
    for name in columns:
        right, folds = name in numbers, name == "dropped"
        table.add_column(name, justify="right" if right else "left", no_wrap=not folds)
    return table


def drops(rows: dict[str, Any]) -> str:
    return ", ".join(f"{rule} {n:,}" for rule, n in rows["dropped"].items())


def say(item: Planned, manifest: dict[str, Any], now: bool) -> None:
    """One log line per step: counts, shards kept, time against budget."""
    rows, step = manifest["rows"], item.step.name
    counts = (
        f"{rows['in']:,} -> {rows['kept']:,} rows"
        + (f" ({drops(rows)})" if rows["dropped"] else "")
        if rows
        else ""
    )
    if rows and rows["quarantined"]:
        counts += f", {rows['quarantined']} quarantined"
    facts = manifest["facts"]
    if not rows and "loss_last" in facts and "steps" in facts:
        counts = (
            f"{facts['steps']} steps, loss {facts['loss_first']:.2f} -> {facts['loss_last']:.2f}"
        )
    kept = f", {manifest['kept_shards']} shards kept" if now and manifest["kept_shards"] else ""
    budget = f" of {manifest['budget']:.0f}" if manifest["budget"] else ""
    when = f"{manifest['seconds']:.1f}{budget} s" if now else "kept"
    log.info("%-10s %s%s  %s", step, counts, kept, when)


def summary(store: Store, run: str, out: Console) -> None:
    """The results table, when the run has been evaluated."""
    found = [a for _, a in made(store, run) if a.stage == "evaluate"]
    if not found:
        return
    models = found[-1].facts["models"]
    table = _table("", *models)
    for label, values in result_rows(models):
        table.add_row(label, *values)
    out.print()
    out.print(table)


def result_rows(models: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(measure, one text per model) of the evaluation, in the order the report shows them."""
    first = next(iter(models.values()))
    rows = [
        (f"bits per byte, {name}", [f"{m['bits_per_byte'][name]:.3f}" for m in models.values()])
        for name in first["bits_per_byte"]
    ]
    for key, label in (("without_suffix", "without"), ("with_suffix", "with")):
        rows.append(
            (f"middle loss {label} suffix", [_middle(m["middle"], key) for m in models.values()])
        )
    rows.append(("ranks right over mutated", [_ranking(m["ranking"]) for m in models.values()]))
    rows.append(
        (
            "pass@1",
            [f"{m['pass_at_1']['passed']}/{m['pass_at_1']['tasks']}" for m in models.values()],
        )
    )
    return rows


def _middle(found: dict[str, float] | None, key: str) -> str:
    return f"{found[key]:.3f}" if found else "-"


def _ranking(r: dict[str, Any]) -> str:
    return f"{r['accuracy']:.1%} ({r['interval'][0]:.0%}-{r['interval'][1]:.0%})"
