"""Starts our application for a benchmark or a drill: on Ray Serve, or bare under uvicorn.

`python -m tests.bench.ours --model FOLDER --annotator FOLDER --port 8000 [--bare]`
"""

import argparse
import signal
import threading

from serve.app import Args, api, load


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--model", required=True)
    made.add_argument("--annotator", required=True)
    made.add_argument("--port", type=int, required=True)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--bare", action="store_true", help="uvicorn alone, without Ray")
    given = made.parse_args()
    args = Args(model=given.model, annotator=given.annotator, threads=given.threads)
    (_bare if given.bare else _ray)(args, given.port)


def _bare(args: Args, port: int) -> None:
    import uvicorn

    uvicorn.run(api(load(args)), host="127.0.0.1", port=port, log_level="warning")


def _ray(args: Args, port: int) -> None:
    from cluster.start import connect
    from serve.start import start

    signal.signal(signal.SIGINT, signal.default_int_handler)
    connect()
    start(args, port=port)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


if __name__ == "__main__":
    main()
