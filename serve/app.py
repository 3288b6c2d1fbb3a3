"""The Ray Serve application: completions from one model, scores from one judge of files.

`api` is an ordinary FastAPI application that needs no Ray; `Icefloe` loads the models and hands it
to Serve; `app` is what a Serve config names (`import_path: serve.app:app`).
"""

import os
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.config import BackpressureConfig

from serve import annotations, completions, listing
from serve.guard import Guard, handle_errors, read_keys
from serve.state import PLACES, State

SHARE = {"num_cpus": 0.5}
"""What Ray counts for a replica: it must start where a laptop's cores are taken (ours)."""
TOPICS = (listing, completions, annotations)
"""Modules with `routes(state)`: all there is to ask."""


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
        self.state, self.keys = load(args), keys

    def __serve_build_asgi_app__(self) -> FastAPI:
        return api(self.state, self.keys)


def load(args: Args) -> State:
    """All models, on a GPU where this process was given one."""
    import torch

    from pipeline.model import engine, judges

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = args.threads or os.cpu_count() or 1
    model = engine.load(args.model, threads=threads, device=device)
    judge = judges.load(args.annotator, threads=threads, device=device)
    return State({_name(model.info): model}, judge)


def _name(card: dict[str, Any]) -> str:
    """A release's name, else its architecture's."""
    return str(card.get("name", card.get("model", "model")))


def api(state: State, keys: Sequence[str] = ()) -> FastAPI:
    """The routes over whatever `state` holds at the time of a request.

    keys: SHA-256 of the accepted ones (`read_keys`); none admits anyone.
    """
    app = FastAPI(title="Icefloe", docs_url=None, redoc_url=None)
    app.add_middleware(Guard, keys=keys)
    handle_errors(app)
    for topic in TOPICS:
        app.router.routes.extend(topic.routes(state).routes)  # walkable, unlike an included router
    return app
