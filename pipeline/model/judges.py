"""Loads a judge of files from its artifact folder, by the kind its card names.

A judge scores texts: `column` is where its values go. Knows nothing of how it was trained.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from pipeline.core.errors import StageError, did_you_mean
from pipeline.model.forest import Forest
from pipeline.model.scorer import Score, Scorer

Precision = Literal["exact", "int8"]


class Judge(Protocol):
    """What every kind is. `name` as its `card` says; `labels` of a classifier, the second the good."""

    name: str
    column: str
    card: dict[str, Any]
    labels: tuple[str, ...]

    def score(self, texts: Sequence[str], located: bool = False) -> list[Score]:
        """One Score a text, in order; with its windows' places if `located`."""


@cache
def load(
    folder: str | Path, *, threads: int, device: str | None = None, precision: Precision = "exact"
) -> Judge:
    """The judge in `folder`, loaded once in a process; on its GPU if it has one and no `device` is
    named. StageError where there is none, or of no kind known here."""
    card = read_card(folder)
    kind = card.get("kind", "encoder")
    if kind not in KINDS:
        raise StageError(f"{folder}: a judge of kind {kind!r}{did_you_mean(kind, KINDS)}")
    device = device or ("cuda" if torch.cuda.is_available() and precision == "exact" else "cpu")
    try:
        judge: Judge = KINDS[kind](folder, threads=threads, device=device, precision=precision)
    except ValueError as e:
        raise StageError(str(e)) from None
    return judge


def refined(judge: Judge, exact: Judge, texts: Sequence[str], least: float) -> list[Score]:
    """The scores of `judge`; where one is `least` or more, that of `exact`, slower and surer."""
    found = judge.score(texts)
    again = [k for k, score in enumerate(found) if score.score >= least]
    for k, score in zip(again, exact.score([texts[k] for k in again]), strict=True):
        found[k] = score
    return found


def read_card(folder: str | Path) -> dict[str, Any]:
    """annotator.json. StageError where there is none."""
    path = Path(folder) / "annotator.json"
    if not path.is_file():
        raise StageError(f"{folder} is no annotator folder: no annotator.json")
    return dict(json.loads(path.read_text()))


def standing(folder: str | Path) -> dict[str, Any]:
    """What a release says of the corpus's scores (`kernels.standing`); empty where it does not."""
    path = Path(folder) / "scores.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def column(card: dict[str, Any]) -> str:
    """Where the judge of this card puts its scores."""
    return str(card.get("column", "quality"))


KINDS: dict[str, Any] = {"encoder": Scorer, "forest": Forest}
"""Kind in the card -> what loads it: (folder, threads, device, precision) -> Judge."""
