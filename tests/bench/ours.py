"""Starts our application for a benchmark or a drill: as `icefloe serve` does, or bare under uvicorn.

`python -m tests.bench.ours --model FOLDER --annotator FOLDER --port 8000 [--bare]`
"""

import argparse
import os
import signal
import threading


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--model", required=True)
    made.add_argument("--int8", action="store_true", help="also serve it in 8 bits, as `int8`")
    made.add_argument("--annotator")
    made.add_argument("--port", type=int, required=True)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--slots", type=int)
    made.add_argument("--bare", action="store_true", help="uvicorn alone, without Ray")
    given = made.parse_args()
    (_bare if given.bare else _ray)(given)


def _arguments(given: argparse.Namespace) -> object:
    from serve.app import Args, Model

    models = [Model(folder=given.model, slots=given.slots)]
    if given.int8:
        models.append(Model(folder=given.model, name="int8", precision="int8", slots=given.slots))
    return Args(models=models, annotator=given.annotator, threads=given.threads)


def _bare(given: argparse.Namespace) -> None:
    import uvicorn

    from serve import wire
    from serve.app import api, load

    app = api(load(_arguments(given)))  # type: ignore[arg-type]
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning", http=wire.Wire)


def _ray(given: argparse.Namespace) -> None:
    from serve.direct import environment

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= environment(given.port)  # before Ray is imported
    from cluster.start import connect
    from serve.start import start, stop

    start(_arguments(given), port=given.port, connect=connect)  # type: ignore[arg-type]
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    stop()


if __name__ == "__main__":
    main()
