"""`POST /v1/annotate`: files to scores, the judge's own windows shown.

Knows nothing of keys or Ray.
"""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from serve.desk import Cancel, Desk
from serve.schemas import AnnotateRequest, AnnotateResponse, Annotation, File, name_unknown
from serve.state import State

if TYPE_CHECKING:
    from pipeline.model.judges import Judge
    from pipeline.model.scorer import Score

AT_ONCE = 8
"""Files scored between two looks at whether the client is still there (ours)."""


def routes(state: State) -> APIRouter:
    """The route of `/v1/annotate`."""
    router = APIRouter()

    @router.post("/v1/annotate", response_model_exclude_none=True)
    async def files(
        body: AnnotateRequest, request: Request, response: Response
    ) -> AnnotateResponse:
        judge = state.judged(body.model)
        name_unknown(body, response)
        return await annotate(body, request, judge, state.judging)

    return router


async def annotate(
    body: AnnotateRequest, request: Request, judge: "Judge", desk: Desk
) -> AnnotateResponse:
    """One annotation a file, in order."""
    scores = await desk.answer(request, lambda gone: _score(judge, body.files, gone))
    data = [
        Annotation(
            index=k,
            score=score.score,
            windows=list(score.windows),
            truncated=score.truncated,
            path=file.path,
            language=file.language,
        )
        for k, (file, score) in enumerate(zip(body.files, scores, strict=True))
    ]
    return AnnotateResponse(data=data, model=judge.name)


def _score(judge: "Judge", files: list[File], gone: Cancel) -> "list[Score]":
    scores: list[Score] = []
    while len(scores) < len(files) and not gone():
        part = files[len(scores) : len(scores) + AT_ONCE]
        scores += judge.score([file.text for file in part])
    return scores
