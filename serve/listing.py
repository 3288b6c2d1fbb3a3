"""`GET /health` and `GET /v1/models`: whether it serves, and what.

Knows nothing of how a model answers.
"""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from serve.state import State

if TYPE_CHECKING:
    from pipeline.model.engine import Engine


def routes(state: State) -> APIRouter:
    """The routes that tell of the others."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, str]:
        state.engine()
        state.judged()
        return {"status": "ok"}

    @router.get("/v1/models")
    async def list_models() -> dict[str, object]:
        state.engine()
        return {"object": "list", "data": [_describe(n, e) for n, e in state.engines.items()]}

    return router


def _describe(name: str, engine: "Engine") -> dict[str, object]:
    """What `/v1/models` says: OpenAI's fields, the context, then the model's card."""
    base = {"id": name, "object": "model", "created": 0}
    return {**base, "owned_by": "icefloe", "max_model_len": engine.context, **engine.info}
