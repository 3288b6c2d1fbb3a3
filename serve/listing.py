"""`/health`, `/ready`, `/metrics` and `/v1/models`: whether it serves, how much, and what.

Knows nothing of how a model answers.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily

from pipeline.core.schema import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, MASK, SEP, SPECIALS, specials
from serve.metrics import loads
from serve.state import State

if TYPE_CHECKING:
    from pipeline.model.engine import Engine

PSM = {"prefix": FIM_PREFIX, "suffix": FIM_SUFFIX, "middle": FIM_MIDDLE}
CODEGEN2 = {"mask": MASK, "separator": SEP}


def routes(state: State) -> APIRouter:
    """The routes that tell of the others."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The process answers; nothing more."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> dict[str, Any]:
        """Every model is loaded, every engine runs, and new requests are welcome; else 503."""
        state.check_ready()
        return {"status": "ready", "models": [*state.engines]}

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus' text, of the replica that answers."""
        return Response(state.meters.text(_gauges(state)), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/models")
    async def list_models() -> dict[str, object]:
        state.engine()
        return {"object": "list", "data": [describe(state, name) for name in state.engines]}

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, object]:
        return describe(state, state.engine(name)[0])

    return router


def describe(state: State, name: str) -> dict[str, object]:
    """What `/v1/models` says: OpenAI's fields, the context, how to infill, then the model's card."""
    _, engine = state.engine(name)
    base = {"id": name, "object": "model", "created": 0, "owned_by": "icefloe"}
    told = {"max_model_len": engine.context, "infill": _infill(engine), **state.facts.get(name, {})}
    card = {key: value for key, value in engine.info.items() if key not in ("infill", "name")}
    return {**base, **card, **told}


def _infill(engine: "Engine") -> dict[str, object] | None:
    """The layout that its `suffix` is put in, with the tokens' names and ids; None without one."""
    if not engine.info.get("infill"):
        return None
    spans = bool(engine.info.get("spans"))
    names = {part: _special(number) for part, number in (CODEGEN2 if spans else PSM).items()}
    tokens = {k: {"text": n, "id": engine.tokenizer.token_to_id(n)} for k, n in names.items()}
    return {"layout": "CodeGen2" if spans else "PSM", "tokens": tokens}


def _special(number: int) -> str:
    return SPECIALS[number] if number < len(SPECIALS) else specials(1)[number]


def _gauges(state: State) -> Iterator[GaugeMetricFamily]:
    yield from loads(state.engines)
    yield GaugeMetricFamily(
        "icefloe_ready", "1 where /ready answers 200", float(state.trouble is None)
    )
