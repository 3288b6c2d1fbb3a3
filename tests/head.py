"""A head node of Ray of its own: its own ports, folder and token's process, ended with the block."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster import jobs
from pipeline.core.errors import StageError

BIN = Path(sys.executable).parent
PORTS = (
    "--port",
    "--dashboard-port",
    "--ray-client-server-port",
    "--dashboard-agent-listen-port",
    "--metrics-export-port",
)


@contextmanager
def head_node(cpus: int) -> Iterator[str]:
    """The address of its dashboard; it has this process's environment and token."""
    ports = free_ports(len(PORTS))
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # socket paths end at 107 characters
    command = [str(BIN / "ray"), "start", "--head", "--block"]
    command += ["--node-ip-address", "127.0.0.1", "--temp-dir", folder, "--num-cpus", str(cpus)]
    command += ["--object-store-memory", str(128 << 20)]
    command += [part for name, port in zip(PORTS, ports, strict=True) for part in (name, str(port))]
    here = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    head = subprocess.Popen(command, env=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{ports[1]}"
    try:
        _wait(url, head)
        yield url
    finally:
        head.terminate()
        head.wait(120)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait(url: str, head: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        assert head.poll() is None, "ray start ended"
        try:
            jobs._client(url)
            return
        except StageError:
            time.sleep(0.2)
    raise AssertionError(f"no dashboard at {url}")
