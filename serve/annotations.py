"""`POST /v1/annotate`: files to scores, windows and places in the corpus; `GET /v1/annotator`.

Knows nothing of keys, queues or Ray.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from pipeline.core.languages import language_of
from pipeline.kernels.standing import percentile
from serve.judgements import (
    AnnotateRequest,
    AnnotateResponse,
    Annotation,
    Annotator,
    AnnotatorResponse,
    File,
    Window,
)
from serve.schemas import Body, name_unknown
from serve.state import State

if TYPE_CHECKING:
    from pipeline.model.judges import Judge
    from pipeline.model.scorer import Score

HEAD = 8192
"""Characters of a file that its language may show in (ours)."""


def routes(state: State) -> APIRouter:
    """The annotator's own routes."""
    router = APIRouter()

    @router.post("/v1/annotate")
    async def annotate(
        body: AnnotateRequest, request: Request, response: Response
    ) -> AnnotateResponse:
        scores = await scored(state, body, [file.text for file in body.files], request, response)
        judge = state.judged()
        data = [
            annotation(k, file, score, judge, state.standing)
            for k, (file, score) in enumerate(zip(body.files, scores, strict=True))
        ]
        return AnnotateResponse(data=data, model=judge.name, annotator=described(judge))

    @router.get("/v1/annotator")
    async def annotator() -> AnnotatorResponse:
        told = described(state.judged()).model_dump()
        return AnnotatorResponse.model_validate(told | {"scores": state.standing or None})

    return router


async def scored(
    state: State, body: Body, texts: Sequence[str], request: Request, response: Response
) -> "list[Score]":
    """One score a text of a request, together with whatever else there is to judge."""
    judge = state.judged(body.model)
    name_unknown(body, response)
    scores = await state.judging.answer(request, texts)
    watch = state.meters.watch(request, judge.name)
    watch.files(len(scores), sum(len(s.windows) for s in scores))
    return scores


def annotation(
    index: int, file: File, score: "Score", judge: "Judge", standing: dict[str, Any]
) -> Annotation:
    """All that is known of one file. `standing` is what export wrote of the corpus's scores."""
    language = file.language or (file.path and language_of(file.path, file.text[:HEAD].encode()))
    seen = covered(score.spans)
    return Annotation(
        index=index,
        score=score.score,
        probs=probs(judge, score.score),
        windows=located(score),
        percentile=percentile(standing.get("all"), score.score),
        language_percentile=percentile(_of(standing, language), score.score),
        truncated=score.truncated,
        seen=seen,
        unseen=len(file.text) - seen,
        path=file.path,
        language=file.language,
    )


def probs(judge: "Judge", score: float) -> dict[str, float] | None:
    """The probability of each class; None where the judge is no classifier."""
    return dict(zip(judge.labels, (1 - score, score), strict=True)) if judge.labels else None


def located(score: "Score") -> list[Window]:
    """Each window with its place; a judge of all windows together gives one around them."""
    spans = score.spans
    if len(spans) != len(score.windows):
        spans = ((spans[0][0], spans[-1][1]),)
    pairs = zip(score.windows, spans, strict=True)
    return [Window(score=value, start=start, end=end) for value, (start, end) in pairs]


def covered(spans: Sequence[tuple[int, int]]) -> int:
    """Characters in at least one of some spans, which begin and end in order."""
    twice = sum(max(0, a[1] - b[0]) for a, b in pairwise(spans))
    return sum(end - start for start, end in spans) - twice


def described(judge: "Judge") -> Annotator:
    """The judge by its card."""
    card = judge.card
    auc = card.get("auc")
    return Annotator(
        name=judge.name,
        kind=card.get("kind", "encoder"),
        window=card["window"],
        column=judge.column,
        labels=list(judge.labels) or None,
        gate=card.get("gate"),
        auc=auc.get("auc") if isinstance(auc, dict) else auc,
        data=card.get("data"),
    )


def _of(standing: dict[str, Any], language: str | None) -> dict[str, Any] | None:
    """A language's part, however its name is written."""
    names = {name.lower(): name for name in standing.get("languages", {})}
    found = names.get((language or "").lower())
    return standing["languages"][found] if found else None
