"""One document's whole story, from the files of a run: verdicts, edits, score, percentile, batches."""

from pathlib import PurePosixPath
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape

from cluster.runs import made
from pipeline.core.errors import RecipeError
from pipeline.core.files import Shard
from pipeline.core.job import base_shard
from pipeline.core.runner import Artifact
from pipeline.core.store import Store, read_parquet

MOST = 5
"""Stories told when a path fits several documents."""
_SKIPPED = {"uid", "keep", "rule", "value", "evidence"}


def stories(store: Store, run: str, what: str) -> list[dict[str, Any]]:
    """The stories of the documents whose uid begins with, or path ends in, `what` (at most MOST).

    Raises RecipeError when the run has no such document; says so when it was left out at ingest.
    """
    steps = made(store, run)
    found = [
        hit for _, a in steps if a.manifest["base"] is not None for hit in _find(store, a, what)
    ]
    if not found:
        raise RecipeError(
            f"no document of run {run} has a uid beginning with, or a path ending in, {what!r}; "
            "paths are as in their repository, such as asyncio/streams.py"
        )
    return [hit if "left_out" in hit else _story(store, steps, **hit) for hit in found[:MOST]]


def _find(store: Store, artifact: Artifact, what: str) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for record in artifact.manifest["base"]:
        if record["rows"]:
            table = read_parquet(store.local(record["file"]), ["uid", "path"])
            rows = [i for i, r in enumerate(table.to_pylist()) if _fits(r, what)]
            out += [
                {"shard": base_shard(artifact.manifest["step"], record), "row": i} for i in rows
            ]
        ledger = read_parquet(store.local(record["ledger"])).to_pylist()
        out += [
            {"left_out": artifact.manifest["step"], **r} for r in ledger if _ends(r["path"], what)
        ]
    return out


def _fits(row: dict[str, str], what: str) -> bool:
    return (len(what) >= 6 and row["uid"].startswith(what)) or _ends(row["path"], what)


def _ends(path: str, what: str) -> bool:
    wanted = PurePosixPath(what).parts
    return PurePosixPath(path).parts[-len(wanted) :] == wanted


def _story(
    store: Store, steps: list[tuple[str, Artifact]], shard: Shard, row: int
) -> dict[str, Any]:
    base = _row(store, shard.layers[0].file, row, None)
    base.pop("text")
    uid = base["uid"]
    verdicts = [v for name, a in steps for v in _verdicts(store, name, a, shard.name, row)]
    keepers = {
        v["evidence"]: _path(store, steps, v["evidence"])
        for v in verdicts
        if v["step_stage"] == "dedup" and v.get("evidence")
    }
    for v in verdicts:
        if v.get("evidence") in keepers:
            v["kept_instead"] = keepers[v["evidence"]]
        v.pop("step_stage")
    return {
        **base,
        "steps": verdicts,
        "trained": [t for n, a in steps for t in _trained(steps, n, a, uid)],
    }


def _row(store: Store, file: str, row: int, columns: list[str] | None) -> dict[str, Any]:
    return dict(read_parquet(store.local(file), columns).slice(row, 1).to_pylist()[0])


def _verdicts(
    store: Store, step: str, artifact: Artifact, shard: str, row: int
) -> list[dict[str, Any]]:
    """What a step's layers say of the row; nothing where an earlier one had dropped it."""
    out = []
    for layer in artifact.manifest["layers"]:
        for record in layer["shards"]:
            if record["shard"] == shard:
                told = _row(store, record["file"], row, None)
                if told["keep"] is not None:
                    own = {k: v for k, v in told.items() if v is not None and k != "uid"}
                    out.append(
                        {"step": step, "step_stage": artifact.stage, "kind": layer["kind"], **own}
                    )
    return out


def _path(store: Store, steps: list[tuple[str, Artifact]], uid: str) -> str | None:
    for _, a in steps:
        for record in a.manifest["base"] or []:
            table = read_parquet(store.local(record["file"]), ["uid", "repo", "path"])
            hit = table.filter(pc.equal(table["uid"], uid)).to_pylist()
            if hit:
                return f"{hit[0]['repo']}/{hit[0]['path']}"
    return None


def _trained(
    steps: list[tuple[str, Artifact]], step: str, artifact: Artifact, uid: str
) -> list[dict[str, Any]]:
    """The phases that trained on the document through this pack step: epochs, tokens, batches."""
    if artifact.stage != "pack":
        return []
    index = read_parquet(artifact.folder / "index.parquet")
    mine = index.filter(pc.equal(index["uid"], uid))
    if not len(mine):
        return []
    out = []
    for phase, a in steps:
        if a.stage == "train" and a.manifest["identity"]["inputs"]["data"] == artifact.key:
            batch = a.manifest["identity"]["settings"]["batch"]
            seen = mine.filter(pc.less(mine["sequence"], a.facts["steps"] * batch))
            batches = sorted({int(s) // batch for s in seen["sequence"].to_pylist()})
            out.append(
                {
                    "phase": phase,
                    "epochs": sorted(set(seen["epoch"].to_pylist())),
                    "tokens": int(pc.sum(seen["length"]).as_py() or 0),
                    "batches": batches,
                }
            )
    return out


def tell(story: dict[str, Any], out: Console) -> None:
    """A story for people."""
    if "left_out" in story:
        out.print(
            f"[bold]{_name(story)}[/] left out by {story['left_out']}: "
            f"{story['rule']} {escape(story['evidence'] or '')}"
        )
        return
    out.print(
        f"[bold]{_name(story)}[/]  {escape(story['language'])}, {story['bytes']:,} bytes, "
        f"licence {story['licence']}"
    )
    out.print(f"  uid {story['uid']}")
    for v in story["steps"]:
        out.print(f"  {v['step']:<10} {_said(v)}")
    for t in story["trained"]:
        shown = ", ".join(map(str, t["batches"][:8])) + (" ..." if len(t["batches"]) > 8 else "")
        out.print(
            f"  {t['phase']:<10} trained on {t['tokens']:,} of its tokens in epochs "
            f"{t['epochs']}, batches {shown}"
        )
    if not story["trained"]:
        out.print("  no phase trained on it")


def _name(story: dict[str, Any]) -> str:
    return escape(f"{story['repo']}/{story['path']}")


def _said(v: dict[str, Any]) -> str:
    """A verdict as markup; names may hold brackets (`app/[id]/page.tsx`)."""
    if not v["keep"]:
        value = f" ({v['value']:.3g})" if "value" in v else ""
        instead = f", kept instead: {escape(str(v['kept_instead']))}" if "kept_instead" in v else ""
        why = escape(f" [{v['evidence']}]") if "evidence" in v and not instead else ""
        return f"[red]dropped: {v['rule']}{value}[/]{why}{instead}"
    own = {k: x for k, x in v.items() if k not in _SKIPPED | {"step", "kind"}}
    shown = ", ".join(f"{k} {_short(x)}" for k, x in own.items())
    return "kept" + (f" ({escape(shown)})" if shown else "")


def _short(value: Any) -> str:
    if isinstance(value, list):
        if value and isinstance(value[0], float):
            return "[" + ", ".join(f"{x:.3f}" for x in value) + "]"
        return f"{len(value)}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
