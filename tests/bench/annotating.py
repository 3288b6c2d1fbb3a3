"""How fast files are judged over HTTP by the requests of several clients, against the judge alone.

    python -m tests.bench.annotating --encoder FOLDER --json

The encoder (a BERT with its tokenizer.json) gets a head of two classes and no training: scores mean
nothing, and cost as much. Files are this Python's own, the same for every system and in one order. `offline`
is one call of the judge with all of them; `http` is uvicorn in a process of its own.
"""

import argparse
import json
import multiprocessing
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from transformers import BertForSequenceClassification
from transformers.utils.logging import disable_progress_bar

from pipeline.model import judges
from tests.bench import corpus


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    table = corpus.load(given.corpus, given.limit)
    texts = [t for t in table["text"].to_pylist() if len(t) < 100_000]
    picked = np.random.default_rng(0).permutation(len(texts))[: given.files]
    files = [texts[k] for k in picked]
    with tempfile.TemporaryDirectory(prefix="annotating-") as folder:
        judge = made(given.encoder, Path(folder))
        result = measured(judge, files, given)
    result |= {"clients": given.clients, "files_a_request": given.batch, "files": len(files)}
    result["versions"] = corpus.versions("torch", "transformers", "tokenizers")
    corpus.tell(result, [shown(result)], given)


def _parser() -> argparse.ArgumentParser:
    made = corpus.parser(__doc__, "60M")
    made.add_argument("--encoder", type=Path, required=True)
    made.add_argument("--files", type=int, default=512)
    made.add_argument("--clients", type=int, default=8)
    made.add_argument("--batch", type=int, default=8, help="files a request")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--threads", type=int, default=2)
    return made


def made(encoder: Path, folder: Path) -> Path:
    """An annotator folder of the encoder with a head."""
    disable_progress_bar()
    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(encoder, num_labels=2).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((encoder / "tokenizer.json").read_bytes())
    (folder / "annotator.json").write_text(json.dumps({"name": "judge", "window": 512}))
    return folder


def measured(folder: Path, files: list[str], given: Any) -> dict[str, Any]:
    """Files a second of both, in turns, and how far their scores are apart."""
    judge = judges.load(folder, threads=given.threads, device="cpu")
    spent: dict[str, list[float]] = {"offline": [], "http": []}
    with serving(folder, given.threads) as url:
        ask(url, files[: given.batch], 1, given.batch)
        for _ in range(given.rounds):
            alone, seconds = timed(lambda: [s.score for s in judge.score(files)])
            spent["offline"].append(seconds)
            served, seconds = timed(lambda: ask(url, files, given.clients, given.batch))
            spent["http"].append(seconds)
    found: dict[str, Any] = {k: len(files) / min(v) for k, v in spent.items()}
    found["annotate_ratio"] = found["http"] / found["offline"]
    found["apart"] = float(np.abs(np.array(alone) - np.array(served)).max())
    return found | {"seconds": spent}


class serving:
    """The address of a server process, in a `with`."""

    def __init__(self, folder: Path, threads: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.args = (str(folder), threads, self.port)

    def __enter__(self) -> str:
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=self.args)
        self.process.start()
        url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            try:
                httpx.get(f"{url}/health")
                return url
            except httpx.TransportError:
                time.sleep(0.1)
        raise TimeoutError("the server does not answer")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.join()


def serve(folder: str, threads: int, port: int) -> None:
    """The routes with a judge, and a model that nobody asks."""
    import uvicorn

    from serve.app import api
    from serve.state import State

    judge = judges.load(folder, threads=threads, device="cpu")
    state = State(engines={"none": object()}, judge=judge)  # type: ignore[dict-item]
    uvicorn.run(api(state), port=port, log_level="error")


def ask(url: str, files: list[str], clients: int, batch: int) -> list[float]:
    """All scores, asked for by so many clients at once, each with its next request when one is done."""
    parts = [files[k : k + batch] for k in range(0, len(files), batch)]

    def one(part: list[str]) -> list[float]:
        body = {"files": [{"text": text} for text in part]}
        answer = httpx.post(f"{url}/v1/annotate", json=body, timeout=600)
        answer.raise_for_status()
        return [row["score"] for row in answer.json()["data"]]

    with ThreadPoolExecutor(clients) as pool:
        return [score for scores in pool.map(one, parts) for score in scores]


def timed(work: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def shown(result: dict[str, Any]) -> str:
    return (
        f"offline {result['offline']:.1f} files/s, over HTTP {result['http']:.1f} "
        f"({result['annotate_ratio']:.3f}), scores apart {result['apart']:.1e}"
    )


if __name__ == "__main__":
    sys.exit(main())
