"""What Ray must find in the environment so that a replica answers its port itself.

Serve's own way goes through a proxy process, 8 ms a request; HAProxy takes 1 ms but opens two more ports
to everyone. A replica that listens has neither (`tests/bench/RESULTS/serve_overhead.md`). For the one
replica that `icefloe serve` starts: a second could not have the port. Light: read before Ray is imported.
"""

FRONT = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.front:middlewares"}
"""Whoever listens for Serve, a proxy or a replica, puts `serve.front` first."""


def environment(port: int) -> dict[str, str]:
    """Variables to set before Ray is started."""
    return {
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),  # the first that is not used
        "RAY_SERVE_PORT_QUARANTINE_S": "0",  # a replica that takes a dead one's place needs its port
        # Nobody stands before the replica who would have to hear that it goes.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # A judge's endpoint: 0.95 to 0.98 of its rate alone instead of 0.84 to 0.95. Its threads wait for
        # one another without taking a core meanwhile, and share one heap, whose freed memory is kept.
        "GOMP_SPINCOUNT": "1000",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
        # The routes run in the loop that reads the socket, not in a thread beside it.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }
