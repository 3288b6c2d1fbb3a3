"""Starts the application on Ray Serve and waits until it answers.

Knows nothing of how Ray is started: the caller has done it, or hands in a function that does.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from ipaddress import ip_address
from typing import Any

from pipeline.core.errors import RecipeError, StageError
from serve.app import Args, app
from serve.guard import KEY, read_keys

NAME = "icefloe"
"""The application's name in Serve."""
TIMEOUT = 300
"""Seconds a request may take, then 408 (ours)."""


def start(
    args: Args,
    host: str = "127.0.0.1",
    port: int = 8000,
    connect: Callable[[], Any] = lambda: None,
) -> None:
    """Serve `args` on http://host:port; returns once both models are loaded.

    connect: makes Ray usable, when it is not yet. Raises RecipeError for an address that others
    can reach without any key, StageError when the application does not come up.
    """
    if not _loopback(host) and not read_keys(args.keys):
        raise RecipeError(
            f"host {host!r} without a key would serve anyone: set {KEY}, give a keys file, "
            "or keep 127.0.0.1"
        )
    connect()
    from ray import serve

    quiet = {"log_level": "WARNING", "enable_access_log": False}
    options = {"host": host, "port": port, "request_timeout_s": TIMEOUT}
    try:
        serve.start(proxy_location="HeadOnly", http_options=options, logging_config=quiet)
        serve.run(app(_with_gpu(args)), name=NAME, route_prefix="/", logging_config=quiet)
    except RuntimeError as e:
        raise StageError(f"{host}:{port} does not serve: {_reason(e)}") from e


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


def stop() -> None:
    """Take the application and Serve down; Ray stays."""
    from ray import serve

    serve.shutdown()


def wait_ready(url: str, seconds: float) -> None:
    """Return once `url`/health answers 200; StageError with its last answer after `seconds`."""
    end = time.monotonic() + seconds
    while (found := _health(url)) != "ok":
        if time.monotonic() > end:
            raise StageError(f"{url} is not ready after {seconds:g} s: {found}")
        time.sleep(0.2)


def _health(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
            return str(json.load(answer)["status"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as e:
        # Refused, Serve's own 404 or 503, or whatever else answers at this port.
        return str(e)


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
