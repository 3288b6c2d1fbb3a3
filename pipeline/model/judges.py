"""Loads a judge of files from its artifact folder, by the kind its card names.

A judge scores texts: `column` is where its values go. Knows nothing of how it was trained.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.core.errors import StageError, did_you_mean
from pipeline.model.scorer import Score, Scorer

Precision = Literal["exact", "int8"]


class Judge(Protocol):
    """What every kind is."""

    column: str

    def score(self, texts: Sequence[str]) -> list[Score]:
        """One Score a text, in order."""


def load(
    folder: str | Path, *, threads: int, device: str = "cpu", precision: Precision = "exact"
) -> Judge:
    """The judge in `folder`. StageError where there is none, or of no kind known here."""
    card = read_card(folder)
    kind = card.get("kind", "encoder")
    if kind not in KINDS:
        raise StageError(f"{folder}: a judge of kind {kind!r}{did_you_mean(kind, KINDS)}")
    try:
        return KINDS[kind](folder, threads=threads, device=device, precision=precision)
    except ValueError as e:
        raise StageError(str(e)) from None


def read_card(folder: str | Path) -> dict[str, Any]:
    """annotator.json. StageError where there is none."""
    path = Path(folder) / "annotator.json"
    if not path.is_file():
        raise StageError(f"{folder} is no annotator folder: no annotator.json")
    return dict(json.loads(path.read_text()))


KINDS: dict[str, Any] = {"encoder": Scorer}
"""Kind in the card -> what loads it: (folder, threads, device, precision) -> Judge."""
