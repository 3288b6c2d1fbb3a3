"""How long packing takes and what it leaves empty; what the objectives cost the loader.

Documents have log-normal lengths (median 400 tokens, mean 820: about a code corpus's), in memory.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pipeline.kernels.corruption import corrupt
from pipeline.kernels.fitting import fit
from pipeline.kernels.infilling import rearrange
from pipeline.kernels.packing import Pieces, Spans, lay, places
from tests.bench.corpus import heading, versions

LENGTHS = (2048, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    args = parser.parse_args()
    lengths = np.random.default_rng(0).lognormal(6, 1.2, args.documents).astype(np.int64)
    rows = [row for length in LENGTHS for row in packings(lengths, length)]
    loader = objectives(lengths[:20_000])
    data = {"packing": rows, "loader": loader, "versions": versions("numpy", "numba")}
    print("\n".join([heading(), "", *shown(data)]))
    if args.json:
        print(json.dumps(data))


def packings(lengths: np.ndarray, length: int) -> Iterable[dict[str, Any]]:
    """Seconds (best of three, compiled before), sequences, padding and documents cut, by way."""
    kinds = {"plain": (0.0, Spans()), "infill .5": (0.5, Spans()), "corrupt .5": (0.0, Spans(0.5))}
    for way, make in (("cut", lay), ("best", fit)):
        for kind, (infill, spans) in kinds.items():

            def pack(
                make: Callable[..., Pieces] = make, infill: float = infill, spans: Spans = spans
            ) -> Pieces:
                return make(lengths, length, infill, np.random.default_rng(1), spans)

            seconds, p = best(pack)
            room = (int(p.sequence.max()) + 1) * length
            used = int(places(p.length, p.infill, p.spans, p.last).sum())
            cut = len(np.unique(p.document[~p.last & (lengths[p.document] < length)]))
            told = {"length": length, "fit": way, "objective": kind, "seconds": seconds}
            yield told | {
                "sequences": room // length,
                "padding": 1 - used / room,
                "cut": cut / len(lengths),
                "sentinels": (used - int(p.length.sum() + p.last.sum())) / used,
            }


def objectives(lengths: np.ndarray) -> dict[str, float]:
    """Million tokens a second that one core rearranges, a document at a time."""
    texts = [np.arange(n, dtype=np.uint16) for n in lengths.tolist() if n >= 16]
    tokens, rng = sum(map(len, texts)), np.random.default_rng(2)

    def infill() -> None:
        for text in texts:
            rearrange(text, rng, 0.5)

    def mask() -> None:
        for text in texts:
            masked = max(1, int(0.275 * len(text)))
            corrupt(text, masked, max(1, 2 * masked // 33), 0, rng)

    ways = {"infill": infill, "corrupt": mask}
    return {name: tokens / best(way)[0] / 1e6 for name, way in ways.items()}


def best(work: Callable[[], Any]) -> tuple[float, Any]:
    """(the least seconds of three, what came of it), after one that does not count."""
    made, seconds = work(), []
    for _ in range(3):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds), made


def shown(data: dict[str, Any]) -> Iterable[str]:
    yield "| length | fit | objective | seconds | sequences | padding | documents cut needlessly | sentinels |"
    yield "|---|---|---|---|---|---|---|---|"
    for r in data["packing"]:
        yield (
            f"| {r['length']} | {r['fit']} | {r['objective']} | {r['seconds']:.2f} | {r['sequences']:,} "
            f"| {r['padding']:.4%} | {r['cut']:.1%} | {r['sentinels']:.2%} |"
        )
    yield ""
    rates = ", ".join(f"{name} {rate:.0f}M" for name, rate in data["loader"].items())
    yield f"Rearranged in the loader, tokens a second of one core, every document: {rates}."
    yield f"Versions: {', '.join(f'{k} {v}' for k, v in data['versions'].items())}."


if __name__ == "__main__":
    main()
