"""The Ray Serve application: completions from models side by side, scores from one judge of files.

`api` is an ordinary FastAPI application that needs no Ray; `Icefloe` loads the models and hands it
to Serve; `app` is what a Serve config names (`import_path: serve.app:app`).
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ray import serve
from ray.serve.config import BackpressureConfig

from pipeline.core.errors import RecipeError
from pipeline.model.prompts import card
from serve import (
    annotations,
    chat,
    classifying,
    completions,
    fim,
    infill,
    listing,
    logs,
    openapi,
    page,
    tokens,
)
from serve.guard import Guard, handle_errors
from serve.keys import Keyring, env_keys, file_keys
from serve.settings import Settings
from serve.state import State

log = logging.getLogger(__name__)

SHARE = {"num_cpus": 0.5}
"""What Ray counts for a replica: it must start where a laptop's cores are taken (ours)."""
AT_ONCE = 512
"""Requests that Serve lets into a replica; the engines' queues are shorter, and refuse first (ours)."""
TOPICS = (listing, completions, fim, infill, chat, tokens, annotations, classifying, page)
"""Modules with `routes(state)`: all there is to ask."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Model(_Part):
    """One model and how it runs."""

    folder: str
    """A published model folder."""
    name: str | None = None
    """The name that clients send; None is the card's."""
    precision: Literal["exact", "int8"] = "exact"
    """int8 is faster on a CPU, and not the same (ours)."""
    engine: Literal["auto", "icefloe", "vllm"] = "auto"
    """What runs it; auto is vLLM where it is installed and there is a GPU (ours)."""
    slots: Annotated[int, Field(ge=1)] | None = None
    """Sequences decoded at once; None is the engine's own number."""


class Args(_Part):
    """What to serve."""

    models: Annotated[list[Model], Field(min_length=1)]
    """Side by side, chosen by `model`; the first is the default."""
    annotator: str | None = None
    """A judge's folder, of any kind: an annotator's or a forest's; None serves none."""
    keys: str | None = None
    """A file of accepted keys, one a line, mode 0600; ICEFLOE_API_KEY adds one."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Torch threads, shared by all models; None is every core (Ray gives a replica one)."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs a replica holds; None is what the Serve config says, else none."""

    @field_validator("models")
    @classmethod
    def _apart(cls, models: list[Model]) -> list[Model]:
        names = [m.name for m in models if m.name is not None]
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise ValueError(f"two models are named {twice!r}")
        return models


def app(args: Args) -> serve.Application:
    """The application of a Serve config, whose `user_config` is the settings."""
    return application(args, {})


def application(args: Args, settings: Mapping[str, Any]) -> serve.Application:
    """The same with its first settings. Keys are read here; their hashes travel on, and a replica that
    sees the file follows its changes."""
    deployment: Any = Icefloe
    if settings:
        deployment = deployment.options(user_config=dict(settings))
    if args.gpus is not None:
        deployment = deployment.options(ray_actor_options={**SHARE, "num_gpus": args.gpus})
    return deployment.bind(args, env_keys(), file_keys(args.keys))


# The engines refuse first, with an envelope; Serve's own bound is there for what they do not see.
@serve.deployment(
    max_ongoing_requests=AT_ONCE,
    max_queued_requests=AT_ONCE,
    backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    graceful_shutdown_timeout_s=30,
    max_constructor_retry_count=1,  # a folder that does not load will not load the third time
    ray_actor_options=SHARE,
    user_config={},
)
@serve.ingress()
class Icefloe:
    """One replica: all models and their routes."""

    def __init__(self, args: Args, fixed: Sequence[str], from_file: Sequence[str]) -> None:
        logs.setup()
        self.keys = Keyring(fixed, from_file, args.keys)
        self.state, self.configured = load(args), False

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Take new settings while serving. Wrong ones stop a start, but never what runs already."""
        try:
            self.state.settings = Settings.model_validate(config)
        except ValidationError as e:
            if not self.configured:
                raise
            log.error("the settings stay as they were: %s", e)
        self.configured = True

    def drain(self) -> None:
        """Refuse what is new from now on; what runs goes on."""
        self.state.settings = self.state.settings.model_copy(update={"draining": True})

    def check_health(self) -> None:
        """Serve starts another replica where this raises."""
        if broken := self.state.broken:
            raise RuntimeError(broken)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return api(self.state, self.keys)


def load(args: Args) -> State:
    """All models, on a GPU where this process was given one."""
    import torch

    from pipeline.model import engine, judges

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = args.threads or os.cpu_count() or 1
    state, engines, facts = State(), {}, {}
    for name, model in zip(names(args), args.models, strict=True):
        options: dict[str, Any] = {} if model.slots is None else {"slots": model.slots}
        loaded = engine.load(
            model.folder,
            kind=model.engine,
            threads=threads,
            device=device,
            precision=model.precision,
            **options,
        )
        engines[name], facts[name] = loaded, _facts(model)
    if args.annotator is not None:
        state.judge = judges.load(args.annotator, threads=threads, device=device)
        state.standing = judges.standing(args.annotator)
    state.engines, state.facts = engines, facts
    return state


def names(args: Args) -> list[str]:
    """What the models are called, in order. RecipeError where two have one name."""
    found = [model.name or _named(model.folder) for model in args.models]
    if twice := next((n for n in found if found.count(n) > 1), None):
        raise RecipeError(
            f"two models are named {twice!r}: give one a name of its own, NAME=FOLDER"
        )
    return found


def _named(folder: str) -> str:
    """A release's name, else its architecture's."""
    told = card(folder)
    return str(told.get("name", told.get("model", "model")))


def _facts(model: Model) -> dict[str, Any]:
    """What its card does not say."""
    settings = Path(model.folder) / "tokenizer_config.json"
    told = json.loads(settings.read_text()) if settings.is_file() else {}
    chat = "chat_template" in told or (settings.parent / "chat_template.jinja").is_file()
    return {"precision": model.precision, "chat_template": chat}


def api(state: State, keys: Keyring | None = None) -> FastAPI:
    """The routes over whatever `state` holds at the time of a request; no keys admit anyone."""
    app = FastAPI(title="Icefloe", docs_url=None, redoc_url=None)
    app.add_middleware(Guard, keys=keys or Keyring(), settings=lambda: state.settings)
    app.add_middleware(logs.Access, meters=state.meters)  # added last, it stands outside
    handle_errors(app)
    for topic in TOPICS:
        app.router.routes.extend(topic.routes(state).routes)  # walkable, unlike an included router
    openapi.describe(app)
    return app
