"""What speaks for or against an annotator: its scores of files that no training saw.

Held-out good files against held-out documents, and good code from elsewhere (the proof) against random
unseen documents, each measured as `separation` says, with the files at both ends of the scores. Knows
nothing of models, nor of where the files came from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.core.arrays import flat
from pipeline.model.separation import Judged, measured

SHOWN, LINES, WIDTH = 10, 24, 120
"""Files told from each end of the scores, lines of each, characters of a line (ours)."""
_WHICH = {"proof": "the proof", "held_out": "held-out repositories"}


class Doc(NamedTuple):
    """One file, of the corpus or from elsewhere. `uid` tells it from all others."""

    uid: str
    text: str
    repo: str
    path: str
    language: str


@dataclass(frozen=True)
class Chosen:
    """The files of one annotator. No repository of `train` is one of the others'."""

    good: list[Doc]
    """To train on."""
    corpus: list[Doc]
    held_good: list[Doc]
    """Held out, drawn like the two above."""
    held_corpus: list[Doc]
    unseen: list[Doc]
    """Random documents, whatever the rule says of them."""
    proof: list[Doc]


def evidence(chosen: Chosen, scores: dict[str, float]) -> dict[str, Any]:
    """What the gate, the card and the report tell. `auc` is the gate's: of the proof if there is one."""
    told = {"held_out": compared(chosen.held_good, chosen.held_corpus, scores)}
    if chosen.proof:
        told["proof"] = compared(chosen.proof, chosen.unseen, scores)
    which = list(told)[-1]
    return {
        "gate": which,
        "auc": told[which]["auc"],
        "auc_interval": told[which]["auc_interval"],
        "measured": told,
        "samples": samples(chosen, scores),
    }


def compared(
    good: Sequence[Doc], corpus: Sequence[Doc], scores: dict[str, float]
) -> dict[str, Any]:
    """`separation.measured` of two lists of files."""
    return measured(judged(good, corpus, scores))


def judged(good: Sequence[Doc], corpus: Sequence[Doc], scores: dict[str, float]) -> Judged:
    """Two lists of files, the good ones first, as rows of numbers."""
    from pipeline.kernels import lexing

    docs = [*good, *corpus]
    data, offsets = flat(pa.array([d.text for d in docs], pa.large_string()))
    languages = [d.language for d in docs]
    sizes = np.diff(offsets).astype(np.float64)
    said = lexing.measure(data, offsets, languages)[:, lexing.NAMES.index("comments")]
    return Judged(
        scores=np.array([scores[d.uid] for d in docs]),
        good=np.arange(len(docs)) < len(good),
        languages=languages,
        sizes=sizes,
        comments=said / np.maximum(sizes, 1),
    )


def samples(chosen: Chosen, scores: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
    """The best and the worst of the files that no training saw, with how they begin."""
    kinds = {"corpus": chosen.unseen + chosen.held_corpus}
    kinds |= {"good": chosen.held_good, "proof": chosen.proof}
    of = {d.uid: (kind, d) for kind, side in kinds.items() for d in side}
    order = sorted(of, key=lambda u: (-scores[u], u))
    each = min(SHOWN, len(order) // 2)
    ends = {"best": order[:each], "worst": order[len(order) - each :][::-1]}
    return {
        end: [
            {"kind": of[u][0], "score": scores[u], "text": _start(of[u][1].text)}
            | {k: getattr(of[u][1], k) for k in ("repo", "path", "language")}
            for u in uids
        ]
        for end, uids in ends.items()
    }


def _start(text: str) -> str:
    lines = text.splitlines()
    cut = [x if len(x) <= WIDTH else f"{x[:WIDTH]} …" for x in lines[:LINES]]
    return "\n".join([*cut, "…"] if len(lines) > LINES else cut)


def shortfall(facts: dict[str, Any], least: float) -> str:
    """What to say where the ROC-AUC that the gate asks for is not reached; nothing where it is."""
    found = facts["measured"][facts["gate"]]
    if found["auc"] is not None and found["auc"] >= least:
        return ""
    rows = [r for r in found["languages"] if r["auc"] is not None]
    worst = min(rows, key=lambda r: r["auc"], default=None)
    parts = [
        f"the annotator's ROC-AUC on {_WHICH[facts['gate']]}, {said(found)}, does not reach min_auc {least}",
        f"worst language: {worst['name']} {said(worst)}"
        if worst
        else "no language has enough files",
        f"matched in size and comments: {said(found['matched'])}",
    ]
    return "; ".join(parts)


def said(row: dict[str, Any]) -> str:
    """An area in words: the number, its interval and what it is of."""
    files = f"{row['good']} good against {row['corpus']} corpus files"
    if row["auc"] is None:
        return f"unknown ({files})"
    low, high = row["auc_interval"]
    return f"{row['auc']:.3f} ({low:.3f} to {high:.3f}; {files})"
