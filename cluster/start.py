"""The one `ray.init` of the program: joins a cluster, or starts a local one set up for its size.

A local cluster is private: its token lives in this process's environment and nowhere on disk.
Knows nothing of recipes.
"""

import logging
import os
import platform
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.core.errors import StageError
from serve.direct import FRONT

log = logging.getLogger(__name__)

QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
"""For every Ray this program touches: no telemetry."""
LOCAL = {
    # Ray keeps one idle worker per core and ends the others after 1 s; a shuffle then starts
    # processes at each stage. Measured on 2 cores: groupby of 50k rows 16 s, with these 0.45 s.
    # A minute later all are ended: each idle one takes 1 % of a core from what trains there.
    "RAY_num_workers_soft_limit": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # The newer reader starts up to 32 actors to read Parquet footers: 2 s for 100 rows, not 0.1.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    "RAY_worker_niceness": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",  # each node's load, for a dashboard; else every 5 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a lost worker is started again all the same
    # Serve's own log files stay; its lines on stderr would mix with the program's.
    "RAY_SERVE_LOG_TO_STDERR": "0",
    **FRONT,
}
"""For a cluster started here. Ray's servers read them at start, so they must be set before."""
ROOT = Path(__file__).parents[1]
TOKEN_FILE = Path("~/.ray/auth_token")
LAPTOP_MEMORY = 64 << 30
LAPTOP_STORE = 512 << 20
"""Object store below LAPTOP_MEMORY bytes of memory; Ray's default is 30 % of it (ours)."""


def connect(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    dashboard: bool = False,
    object_store: int | None = None,
) -> None:
    """Make Ray usable in this process; does nothing when it already is.

    address: of a running cluster ("auto", host:port, ray://...); by default RAY_ADDRESS, which a
    Ray job finds set, else a local cluster is started.
    num_cpus: of a local cluster, by default every core. object_store: its size in bytes.
    Raises StageError when the cluster cannot be reached.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    setup_env(local=address is None)
    import ray

    if ray.is_initialized():
        return
    if address is None:
        _start(num_cpus, dashboard, object_store)
    else:
        _join(address)
    _set_data_context()


@contextmanager
def rested(seconds: float = 60) -> Iterator[None]:
    """For a block that needs no Ray: where it takes longer, the cluster that was started here is ended.

    Its processes are idle, but each wakes up a hundred times a second, and a training that has all
    cores waits for every one of them. `connect` starts another when a step needs it.
    """
    timer = threading.Timer(seconds, _end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _end() -> None:
    if (address := _Local.address) is None:
        return
    import ray

    _Local.address = None
    if ray.is_initialized() and ray.get_runtime_context().gcs_address == address:
        log.info("ray        ends meanwhile: its idle processes take from the training")
        ray.shutdown()


class _Local:
    """The cluster that `connect` has started, and may end; None where it has started none."""

    address: str | None = None


def setup_env(local: bool = True) -> None:
    """Set what Ray reads from the environment; what the user has set there stays.

    Call it before `import ray` where possible. local: a cluster will be started here.
    """
    for key, value in (QUIET | LOCAL if local else QUIET).items():
        os.environ.setdefault(key, value)
    _use_token(local)
    if local:
        _show_the_way()
    for name in ("ray.data", "ray.serve", "ray.train"):  # a line for each execution and report
        logging.getLogger(name).setLevel(logging.WARNING)
    # These warn of what is set here on purpose: token mode, no progress bars.
    for name in ("ray._private.authentication", "ray.data._internal.progress"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _use_token(create: bool) -> None:
    """Token authentication, without the world-readable file that Ray would write for itself."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    given = any(os.environ.get(k) for k in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not given and not TOKEN_FILE.expanduser().exists():
        if not create:
            return
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if "ray" not in sys.modules:
        # Read once, while ray is imported. Set later it splits client from server; then Ray,
        # finding a token and no mode, switches both over by itself.
        os.environ["RAY_AUTH_MODE"] = "token"


def _show_the_way() -> None:
    """Workers import this code from any working directory, installed or not."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, paths)])


def _start(num_cpus: int | None, dashboard: bool, object_store: int | None) -> None:
    import ray

    if object_store is None and _memory() < LAPTOP_MEMORY:
        object_store = LAPTOP_STORE
    told = log.isEnabledFor(logging.DEBUG)
    ray.init(
        "local",  # without it Ray joins a cluster that somebody else started on this machine
        num_cpus=num_cpus or cores(),
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        object_store_memory=object_store,
        logging_level=logging.WARNING,
        log_to_driver=told,
    )
    _end_unused(dashboard, told)
    _Local.address = ray.get_runtime_context().gcs_address


def _end_unused(dashboard: bool, told: bool) -> None:
    """End those of a new cluster's servers that serve nobody here: they take from what trains.

    `ray start` can do without some of them, `ray.init` (2.60, which is pinned) not.
    """
    import ray

    node = ray._private.worker._global_node
    node.kill_monitor(check_alive=False)  # it starts nodes
    if not dashboard:
        node.kill_dashboard(check_alive=False)
    if not told:
        node.kill_log_monitor(check_alive=False)  # it looks for new lines ten times a second


def _join(address: str) -> None:
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself takes more than a minute to find nobody there
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as e:
        raise StageError(
            f"no Ray cluster answers at {address}: {e}. Is it running, and is its token in "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH?"
        ) from e


def _set_data_context() -> None:
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)  # its import sets it to INFO

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.read_op_min_num_blocks = 8  # Ray's 200 makes 200 tasks of a 50 MB file
    context.execution_no_progress_timeout_s = 300  # Ray's half hour hides a starved actor pool


def cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe() -> dict[str, Any]:
    """What there is to work with: cores, memory in bytes, GPUs by name, versions.

    Of the cluster when this process has joined one, else of this machine.
    """
    facts = {"python": platform.python_version(), "ray": version("ray"), "torch": version("torch")}
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        have = ray.cluster_resources()
        gpus = [
            f"{int(n)} x {k[17:]}" for k, n in have.items() if k.startswith("accelerator_type:")
        ]
        cpus, memory, nodes = int(have.get("CPU", 0)), int(have.get("memory", 0)), len(ray.nodes())
        return facts | {"nodes": nodes, "cores": cpus, "memory": memory, "gpus": gpus}
    return facts | {"nodes": 1, "cores": cores(), "memory": _memory(), "gpus": _gpus()}


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
