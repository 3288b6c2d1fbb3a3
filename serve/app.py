"""The Ray Serve application: completions from one model, scores from one judge of files.

`api` is an ordinary FastAPI application that needs no Ray; `Icefloe` loads the models and hands it
to Serve; `app` is what a Serve config names (`import_path: serve.app:app`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.config import BackpressureConfig

from serve import annotations, completions
from serve.desk import Desk
from serve.guard import Guard, Refusal, handle_errors, read_keys
from serve.schemas import (
    AnnotateRequest,
    AnnotateResponse,
    CompletionRequest,
    CompletionResponse,
    unknown,
)

if TYPE_CHECKING:  # torch and transformers take seconds; only the replica pays them
    from pipeline.model.engine import Engine
    from pipeline.model.judges import Judge

T = TypeVar("T")
PLACES = 32
"""Requests that may wait for one model, the running one included (ours)."""
SHARE = {"num_cpus": 0.5}
"""What Ray counts for a replica: it must start where a laptop's cores are taken (ours)."""


class Args(BaseModel):
    """What to serve."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: str
    """A published model folder."""
    annotator: str
    """A judge's folder, of any kind: an annotator's or a forest's."""
    keys: str | None = None
    """A file of accepted keys, one a line, mode 0600; ICEFLOE_API_KEY adds one."""
    threads: int | None = None
    """Torch threads, shared by both models; None is every core (Ray gives a replica one)."""
    gpus: float | None = None
    """GPUs a replica holds; None is what the Serve config says, else none."""


@dataclass
class Models:
    """What is loaded so far."""

    engine: "Engine | None" = None
    judge: "Judge | None" = None


def app(args: Args) -> serve.Application:
    """The application of a Serve config. Keys are read here; only their hashes travel on."""
    deployment: Any = Icefloe
    if args.gpus is not None:
        deployment = deployment.options(ray_actor_options={**SHARE, "num_gpus": args.gpus})
    return deployment.bind(args, read_keys(args.keys))


# The desks refuse first, with an envelope; Serve's own bound is there for what they do not see.
@serve.deployment(
    max_ongoing_requests=3 * PLACES,
    max_queued_requests=PLACES,
    backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    graceful_shutdown_timeout_s=10,
    max_constructor_retry_count=1,  # a folder that does not load will not load the third time
    ray_actor_options=SHARE,
)
@serve.ingress()
class Icefloe:
    """One replica: both models and their routes."""

    def __init__(self, args: Args, keys: Sequence[str]) -> None:
        self.models, self.keys = load(args), keys

    def __serve_build_asgi_app__(self) -> FastAPI:
        return api(self.models, self.keys)


def load(args: Args) -> Models:
    """Both models, on a GPU where this process was given one."""
    import torch

    from pipeline.model import judges
    from pipeline.model.engine import Engine

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = args.threads or os.cpu_count() or 1
    engine = Engine(args.model, threads=threads, device=device)
    return Models(engine, judges.load(args.annotator, threads=threads, device=device))


def api(models: Models, keys: Sequence[str] = (), places: int = PLACES) -> FastAPI:
    """The routes over whatever `models` holds at the time of a request.

    keys: SHA-256 of the accepted ones (`read_keys`); none admits anyone.
    """
    routes = FastAPI(title="Icefloe", docs_url=None, redoc_url=None)
    routes.add_middleware(Guard, keys=keys)
    handle_errors(routes)
    writing, judging = Desk(places), Desk(places)

    @routes.get("/health")
    async def health() -> dict[str, str]:
        _loaded(models.engine)
        _loaded(models.judge)
        return {"status": "ok"}

    @routes.get("/v1/models")
    async def list_models() -> dict[str, object]:
        return {"object": "list", "data": [_describe(_loaded(models.engine))]}

    @routes.post("/v1/completions", response_model=CompletionResponse)
    async def complete(body: CompletionRequest, request: Request, response: Response) -> Any:
        engine = _loaded(models.engine)
        _check_name(body.model, completions.model_id(engine))
        _name_unknown(body, response)
        if not body.stream:
            return await completions.complete(body, request, engine, writing)
        events = await completions.stream(body, engine, writing)
        headers = {**response.headers, "cache-control": "no-cache"}
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    @routes.post("/v1/annotate", response_model_exclude_none=True)
    async def annotate(
        body: AnnotateRequest, request: Request, response: Response
    ) -> AnnotateResponse:
        judge = _loaded(models.judge)
        _check_name(body.model, judge.name)
        _name_unknown(body, response)
        return await annotations.annotate(body, request, judge, judging)

    return routes


def _loaded(model: T | None) -> T:
    if model is None:
        headers = {"retry-after": "1"}
        raise Refusal(503, "the models are still loading", code="loading", headers=headers)
    return model


def _check_name(asked: str | None, have: str) -> None:
    if asked not in (None, have):
        raise Refusal(
            404, f"no model {asked!r} here; there is {have!r}", "model", "model_not_found"
        )


def _name_unknown(body: BaseModel, response: Response) -> None:
    if names := unknown(body):
        response.headers["x-icefloe-ignored"] = ", ".join(quote(n, errors="replace") for n in names)


def _describe(engine: "Engine") -> dict[str, object]:
    """What `/v1/models` says: OpenAI's fields, the context, then the model's card."""
    base = {"id": completions.model_id(engine), "object": "model", "created": 0}
    return {**base, "owned_by": "icefloe", "max_model_len": engine.context, **engine.info}
