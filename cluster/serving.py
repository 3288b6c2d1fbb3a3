"""`icefloe serve`: from a run's steps and folders to what the server is given, and what is said of it.

Knows nothing of HTTP.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster import runs
from pipeline.core.errors import RecipeError
from pipeline.core.store import Store
from serve.app import Args, Model
from serve.keys import KEY, env_keys
from serve.start import NAME, check

NOTE = """\
# For `serve deploy`. Every node must see these folders and the keys file; a GPU is one more line
# (ray_actor_options: {num_gpus: 1}). Ray there should be started with
# RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.front:middlewares.
"""


def arguments(
    store: Store, run: str | None, asked: Sequence[str], keys: str | None, **how: Any
) -> Args:
    """The run's release, if it has one, then each model of `asked`: NAME=STEP, NAME=FOLDER, or
    without the name. The release brings its annotator.

    how: `engine`, `precision`, `slots` of every model, and `threads`. RecipeError for a step that is
    not made, and where nothing is left to serve.
    """
    threads = how.pop("threads", None)
    parted = [_parted(a) for a in asked]
    alone = run is None and parted and all(Path(what).is_dir() for _, what in parted)
    release = None if alone else _release(store, runs.named(store, run), bool(asked))
    chosen = [(name, _folder(store, run, what)) for name, what in parted]
    if release:
        chosen.insert(0, (None, release / "model"))
    models = [Model(name=name, folder=str(folder), **how) for name, folder in chosen]
    annotator = str(release / "annotator") if release else None
    try:
        return Args(models=models, annotator=annotator, keys=keys, threads=threads)
    except ValueError as e:
        raise RecipeError(str(e)) from None


def _parted(asked: str) -> tuple[str | None, str]:
    """NAME=WHAT, or WHAT; a step's name is also its model's."""
    name, equals, what = asked.partition("=")
    if not equals:
        return (None if Path(asked).is_dir() else asked), asked
    if not name or not what:
        raise RecipeError(f"--model {asked!r}: write NAME=STEP or NAME=FOLDER")
    return name, what


def _folder(store: Store, run: str | None, what: str) -> Path:
    """The model folder of a step, or of a folder that is one or holds one in `model`."""
    path = Path(what)
    if path.is_dir():
        return next((p for p in (path, path / "model") if (p / "config.json").is_file()), path)
    if "/" in what:
        raise RecipeError(f"no folder {what}")
    step = runs.artifact(store, runs.named(store, run), what)
    if not (step.folder / "model" / "config.json").is_file():
        raise RecipeError(f"step {what} uses {step.stage}, which makes no model; name a train step")
    return step.folder / "model"


def _release(store: Store, run: str, others: bool) -> Path | None:
    """The folder of the run's release; None where it has none and there are other models."""
    made = dict(runs.made(store, run))
    if found := next((a for a in made.values() if a.stage == "export"), None):
        return found.folder
    if others:
        return None
    trained = [name for name, a in made.items() if a.stage == "train"]
    hint = f"serve a phase: --model {trained[-1]}" if trained else "run the recipe to make one"
    raise RecipeError(f"run {run} has no release yet; {hint}")


def announcement(args: Args, names: Sequence[str], url: str) -> list[str]:
    """What is printed once it serves: where, what, who may, and a command to try."""
    closed = args.keys is not None or bool(env_keys())
    where = args.keys or KEY
    auth = ' -H "authorization: Bearer $KEY"' if closed else ""
    body = f'{{"model": "{names[0]}", "prompt": "def add(a, b):\\n", "max_tokens": 32}}'
    return [
        f"Serving on {url} (Ctrl-C to stop)",
        f"  models     {', '.join(names)}{'' if args.annotator else '; no annotator'}",
        f"  keys       {f'asked for, from {where}' if closed else 'none: whoever reaches it may ask'}",
        f"  {url}/ in a browser: write, compare, judge",
        f"  {url}/v1 is an OpenAI base URL; also /v1/annotate, /metrics, /ready, /openapi.json",
        f"  curl {url}/v1/completions -H 'content-type: application/json'{auth} -d '{body}'",
    ]


def config(args: Args, host: str, port: int) -> str:
    """A Serve config of the same, as YAML: what `serve deploy` takes, and `serve build` would write if it
    took applications with arguments. Folders in full, since a replica starts elsewhere. RecipeError as
    for `serve.start.check`; a key in the environment does not travel and does not count."""
    check(args, host, keys=())
    told = args.model_dump(exclude_none=True, exclude_defaults=True)
    for part in (*told["models"], told):
        part |= {
            k: str(Path(part[k]).absolute()) for k in ("folder", "annotator", "keys") if k in part
        }
    cores = {} if args.threads is None else {"ray_actor_options": {"num_cpus": args.threads}}
    deployment = {"name": "Icefloe", "num_replicas": 1, "user_config": {}, **cores}
    application = {"name": NAME, "route_prefix": "/", "import_path": "serve.app:app"}
    whole = {
        "http_options": {"host": host, "port": port, "request_timeout_s": 330},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [application | {"args": told, "deployments": [deployment]}],
    }
    return NOTE + str(yaml.safe_dump(whole, sort_keys=False))
