"""The judge as clients of two other servers ask for it: `/predict` and `/` as Text Embeddings
Inference has them, `/classify` as vLLM.

The numbers are those of `/v1/annotate`. A long file is judged by its windows, where those servers
cut it or refuse it. Knows nothing of keys, queues or Ray.
"""

import json
import math
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from serve.annotations import probs, scored
from serve.guard import Refusal
from serve.judgements import MAX_FILES
from serve.schemas import Body, Text
from serve.state import State

if TYPE_CHECKING:
    from pipeline.model.judges import Judge
    from pipeline.model.scorer import Score

ERRORS = {413: "Validation", 429: "Overloaded", 503: "Unhealthy"}
"""Text Embeddings Inference's names of errors by status; the others are Validation too."""
SMALLEST = 1e-38
"""What a probability of 0 counts as where its logarithm is asked for (ours; near float32's least)."""


class PredictRequest(Body):
    """`POST /predict`."""

    inputs: Text | Annotated[list[Text] | list[list[Text]], Field(min_length=1)]
    """A text, or texts each in a list of its own."""
    raw_scores: bool = False
    """Logits instead of probabilities: their natural logarithms, which the softmax turns back."""
    truncate: bool | None = None
    """False refuses a text of which some would lie in no window."""


class Prediction(BaseModel):
    """One class of a text."""

    score: float
    label: str


class ClassifyRequest(Body):
    """`POST /classify`."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_FILES)]


class Class(BaseModel):
    """The likeliest class of a text, and the probability of each, in the order of the labels."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class TextUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class ClassifyResponse(BaseModel):
    """One class a text, in order."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Class]
    usage: TextUsage


class _Tei(APIRoute):
    """A route whose refusals also have `error_type`, which clients of that server look at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (HTTPException, RequestValidationError) as e:
                kinds = request.app.exception_handlers
                known = next(kinds[k] for k in type(e).__mro__ if k in kinds)
                return _typed(await known(request, e), getattr(e, "code", None))

        return handled


def _typed(said: JSONResponse, code: str | None) -> JSONResponse:
    kind = "Tokenizer" if code == "too_long" else ERRORS.get(said.status_code, "Validation")
    more = json.loads(bytes(said.body)) | {"error_type": kind}
    headers = {k: v for k, v in said.headers.items() if not k.startswith("content-")}
    return JSONResponse(more, said.status_code, headers)


def routes(state: State) -> APIRouter:
    """The routes of both servers."""
    router = APIRouter()
    tei = APIRouter(route_class=_Tei)

    @tei.post("/")
    @tei.post("/predict")
    async def predict(
        body: PredictRequest, request: Request, response: Response
    ) -> list[Prediction] | list[list[Prediction]]:
        texts = inputs(body)
        found = await scored(state, body, texts, request, response)
        if body.truncate is False and (cut := [k for k, s in enumerate(found) if s.truncated]):
            raise _unread(cut[0])
        rows = [predictions(state.judged(), score, body.raw_scores) for score in found]
        return rows if _batched(body) else rows[0]

    @router.post("/classify")
    async def classify(
        body: ClassifyRequest, request: Request, response: Response
    ) -> ClassifyResponse:
        texts = [body.input] if isinstance(body.input, str) else body.input
        found = await scored(state, body, texts, request, response)
        return classified(state.judged(), found)

    router.routes.extend(tei.routes)
    return router


def inputs(body: PredictRequest) -> list[str]:
    """The texts. Refusal 422 for a pair, which is one input of two parts there; 413 for too many."""
    given: Any = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    parts: list[list[str]] = given if _batched(body) else [given]
    if any(len(part) != 1 for part in parts):
        message = 'a pair of texts is no file: send [["a"], ["b"]] for two files'
        raise Refusal(422, message, "inputs")
    if len(parts) > MAX_FILES:
        message = f"{len(parts)} texts at once: send at most {MAX_FILES}"
        raise Refusal(413, message, "inputs", "batch_too_large")
    return [part[0] for part in parts]


def _batched(body: PredictRequest) -> bool:
    return isinstance(body.inputs, list) and isinstance(body.inputs[0], list)


def _unread(index: int) -> Refusal:
    message = f"text {index} is longer than its windows: drop `truncate: false`, or send less of it"
    return Refusal(422, message, "inputs", "too_long")


def predictions(judge: "Judge", score: "Score", raw: bool) -> list[Prediction]:
    """Every class, the likeliest first; a judge that is no classifier has its score alone."""
    found = probs(judge, score.score)
    if found is None:
        return [Prediction(score=score.score, label=judge.column)]
    ranked = sorted(found.items(), key=lambda item: -item[1])
    value = (lambda p: math.log(max(p, SMALLEST))) if raw else float
    return [Prediction(score=value(p), label=name) for name, p in ranked]


def classified(judge: "Judge", scores: "list[Score]") -> ClassifyResponse:
    """The likeliest class of each text."""
    tokens = sum(score.tokens for score in scores)
    return ClassifyResponse(
        id=f"classify-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=judge.name,
        data=[_class(judge, k, score) for k, score in enumerate(scores)],
        usage=TextUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _class(judge: "Judge", index: int, score: "Score") -> Class:
    found = probs(judge, score.score) or {judge.column: score.score}
    label = max(found, key=lambda name: found[name])
    return Class(index=index, label=label, probs=[*found.values()], num_classes=len(found))
