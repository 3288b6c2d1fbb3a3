"""The checkpoints of a run: their table, and one of them as a folder for plain transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import RecipeError, StageError
from pipeline.core.runner import Artifact
from pipeline.core.store import sha256_file

TABLE = "checkpoints.json"


def table(trained: Sequence[tuple[str, Artifact]]) -> list[dict[str, Any]]:
    """Every kept checkpoint of train steps (name, artifact): phase, step, tokens, loss and path.

    tokens: all that the model has seen, earlier phases' among them; path: in the store.
    """
    rows = []
    for name, a in trained:
        before = a.facts.get("tokens_seen", 0) - a.facts["tokens"]
        for row in a.store.load(a.stage, a.key, TABLE) or []:
            told = {"phase": name, "tokens": before + row["tokens"]}
            rows.append(row | told | {"path": f"{a.stage}/{a.key}/{row['path']}"})
    return rows


def write(artifact: Artifact, name: str, step: int | None, to: Path) -> dict[str, Any]:
    """Write the checkpoint after `step` steps (the last for None) of train step `name` into `to`;
    its row of the table.

    RecipeError where there is no such checkpoint; StageError where it is damaged.
    """
    from pipeline.model.release import release

    row = _row(artifact, name, step)
    if to.is_file() or (to.is_dir() and any(to.iterdir()) and not (to / "icefloe.json").exists()):
        raise RecipeError(f"{to} is there and no model of ours; name an empty or a new folder")
    _check(artifact, row["path"])
    release(artifact.folder, row, to)
    return row


def _row(artifact: Artifact, name: str, step: int | None) -> dict[str, Any]:
    if artifact.stage != "train":
        raise RecipeError(
            f"step {name} uses {artifact.stage}, which leaves no checkpoints; name a train step"
        )
    rows = artifact.store.load(artifact.stage, artifact.key, TABLE) or []
    found = rows[-1] if rows and step is None else None
    found = found or next((r for r in rows if r["step"] == step), None)
    if found is None:
        there = ", ".join(str(r["step"]) for r in rows) or "none"
        raise RecipeError(
            f"step {name} has no checkpoint after {step} steps; kept are those after {there} "
            "(`keep: all` keeps every one)"
        )
    return dict(found)


def _check(artifact: Artifact, path: str) -> None:
    """The checkpoint's files are what was written."""
    files = artifact.manifest["files"]
    for name in (n for n in files if n.startswith(f"{path}/")):
        file = artifact.folder / name
        if not file.exists() or sha256_file(file) != files[name]["sha256"]:
            raise StageError(f"{file} is missing or damaged; export another checkpoint")
