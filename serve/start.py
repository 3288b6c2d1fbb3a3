"""Starts the application on Ray Serve, waits until it answers, and lets it finish before it stops.

Knows nothing of how Ray is started: the caller has done it, or hands in a function that does.
"""

import json
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pipeline.core.errors import RecipeError, StageError
from serve.app import Args, application, names
from serve.keys import KEY, env_keys, file_keys

log = logging.getLogger(__name__)

NAME = "icefloe"
"""The application's name in Serve."""
ROOM = 1.3
"""Memory that a model needs, for a byte of its weights (ours)."""


def start(
    args: Args,
    host: str = "127.0.0.1",
    port: int = 8000,
    connect: Callable[[], Any] = lambda: None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Serve `args` on http://host:port; returns once all models are loaded.

    connect: makes Ray usable, when it is not yet. Where Ray was started with `direct.environment(port)`
    the replica listens itself. Raises RecipeError for what the user must mend before: an address that
    others can reach without any key, a port that is taken, a folder that is none, models that do not
    fit; StageError when the application does not come up.
    """
    check(args, host, env_keys())
    _check_room(args)
    _check_port(host, port)
    connect()
    from ray import serve

    quiet = {"log_level": "WARNING", "enable_access_log": False}
    options = {"host": host, "port": 0 if _listens_itself(port) else port}
    deployed = application(_with_gpu(args), settings or {})
    try:
        serve.start(proxy_location="HeadOnly", http_options=options, logging_config=quiet)
        serve.run(deployed, name=NAME, route_prefix="/", logging_config=quiet)
    except RuntimeError as e:
        raise StageError(f"{host}:{port} does not serve: {_reason(e)}") from e
    wait_ready(f"http://{_dialled(host)}:{port}", 30)


def check(args: Args, host: str, keys: Sequence[str]) -> None:
    """RecipeError for an address that others can reach without one of `keys` or a keys file, for a
    folder that is none, two models of one name, a keys file that is wrong."""
    if not (file_keys(args.keys) or keys or _loopback(host)):
        raise RecipeError(
            f"host {host!r} without a key would serve anyone: give a keys file, set {KEY} where it "
            "is served, or keep 127.0.0.1"
        )
    for folder in (Path(m.folder) for m in args.models):
        if not (folder / "config.json").is_file():
            raise RecipeError(f"{folder} is no model folder: no config.json")
    names(args)
    if args.annotator and not (Path(args.annotator) / "annotator.json").is_file():
        raise RecipeError(f"{args.annotator} is no annotator folder: no annotator.json")


def _check_room(args: Args) -> None:
    folders = [Path(m.folder) for m in args.models]
    need, have = ROOM * sum(map(_weights, folders)), _free()
    if need > have:
        raise RecipeError(
            f"the models need about {need / 2**30:.1f} GiB, {have / 2**30:.1f} GiB are free: "
            "serve fewer of them, or smaller ones"
        )


def _weights(folder: Path) -> int:
    """Bytes of the weights; what a GPU takes is read through memory too."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _free() -> int:
    """Bytes of memory that are available."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_port(host: str, port: int) -> None:
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as e:  # the latter for a number that no port has
            why = getattr(e, "strerror", None) or e
            raise RecipeError(
                f"{host}:{port} cannot be listened on ({why}): name another --port"
            ) from None


def _listens_itself(port: int) -> bool:
    """Whether Ray was told that the replica has this port; the proxy then takes any other."""
    told = os.environ.get("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT") == str(port)
    return told and os.environ.get("RAY_SERVE_ENABLE_DIRECT_INGRESS") == "1"


def _with_gpu(args: Args) -> Args:
    """A GPU for the replica where one is free and nothing was said."""
    import ray

    free = ray.available_resources().get("GPU", 0) >= 1
    return args.model_copy(update={"gpus": 1}) if free and args.gpus is None else args


def _reason(e: RuntimeError) -> str:
    """The last line of what went wrong in the replica, or of the exception itself."""
    from ray import serve

    deployed = serve.status().applications.get(NAME)
    messages = [d.message for d in deployed.deployments.values()] if deployed else []
    return str((*filter(None, messages), str(e))[0]).strip().splitlines()[-1]


def finish() -> None:
    """Refuse what is new, let what runs end, then take the application down."""
    from ray import serve

    if NAME not in serve.status().applications:
        return
    try:
        serve.get_app_handle(NAME).drain.remote().result(timeout_s=10)
    except Exception as e:  # a replica that is dead or stuck goes all the same
        log.warning("the replica did not hear that it ends: %s", e)
    serve.delete(NAME)  # waits for what runs, as long as the deployment allows


def stop() -> None:
    """The same, and Serve too; Ray stays."""
    from ray import serve

    finish()
    serve.shutdown()


def wait_ready(url: str, seconds: float) -> None:
    """Return once `url`/ready answers 200; StageError with its last answer after `seconds`."""
    end = time.monotonic() + seconds
    while (found := _ready(url)) != "ready":
        if time.monotonic() > end:
            raise StageError(f"{url} is not ready after {seconds:g} s: {found}")
        time.sleep(0.05)


def _ready(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/ready", timeout=5) as answer:
            return str(json.load(answer)["status"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as e:
        # Refused, Serve's own 404 or 503, or whatever else answers at this port.
        return str(e)


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _dialled(host: str) -> str:
    """Where this machine reaches what listens on `host`."""
    every = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return every.get(host, f"[{host}]" if ":" in host else host)
