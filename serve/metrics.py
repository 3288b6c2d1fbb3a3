"""What a replica counts, in a Prometheus registry of its own; `/metrics` is its text.

`Meters.watch(request, model)` is for the routes: it counts and times one request's tokens, and leaves
the sums where the log line is written. Knows nothing of what is behind a route.
"""

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from pipeline.model.engine import Engine, Load

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Bounds of requests' and first tokens' times (ours; Prometheus' own end at 10)."""
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Bounds of the time between two tokens (ours)."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Bounds of a batch's size (ours)."""


class Meters:
    """All counters of one application. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        by_route = ("route", "method", "status")
        self._request = Histogram(
            "icefloe_request_seconds", "Requests", by_route, buckets=SECONDS, registry=own
        )
        self._error = Counter("icefloe_errors", "Errors by code", ("code",), registry=own)
        self._first = _histogram("first_token_seconds", "Arrival to first token", SECONDS, own)
        self._gap = _histogram("token_seconds", "Seconds a token after the first", GAPS, own)
        self._batch = _histogram("batch_items", "Files or windows judged at once", SIZES, own)
        self._prompt = _counter("prompt_tokens", "Tokens read", own)
        self._cached = _counter("cached_prompt_tokens", "Tokens of them known already", own)
        self._completion = _counter("completion_tokens", "Tokens written", own)
        self._files = _counter("annotated_files", "Files judged", own)
        self._windows = _counter("annotated_windows", "Windows of them", own)

    def watch(self, request: Request, model: str) -> "Watch":
        """What one request does with one model, to be told as it happens."""
        return Watch(self, request, model)

    def batch(self, model: str, size: int) -> None:
        """One step of a model took `size` items at once."""
        self._batch.labels(model).observe(size)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request came to its end."""
        self._request.labels(route, method, str(status)).observe(seconds)

    def erred(self, code: str) -> None:
        """An error went out, or would have; `code` is the envelope's, or the status."""
        self._error.labels(code).inc()

    def text(self, gauges: Iterable[GaugeMetricFamily] = ()) -> bytes:
        """Everything in Prometheus' text form, and `gauges` as they are now."""
        now = CollectorRegistry()
        now.register(_Found(list(gauges)))
        return generate_latest(self.registry) + generate_latest(now)


class Watch:
    """One request's use of one model; from the event loop only.

    Its sums are in `request.state.told` for the log line: model, ttft_ms, tokens, files.
    """

    def __init__(self, meters: Meters, request: Request, model: str) -> None:
        self._meters, self._model, self._last = meters, model, dict[int, float]()
        self._began: float = getattr(request.state, "began", time.monotonic())
        self._told: dict[str, float | str] = {"model": model}
        request.state.told = self._told

    def prompt(self, tokens: int, cached: int = 0) -> None:
        """A prompt was read, `cached` of its tokens from an earlier call."""
        self._meters._prompt.labels(self._model).inc(tokens)
        self._meters._cached.labels(self._model).inc(cached)
        self._add("prompt_tokens", tokens)
        self._add("cached_tokens", cached)

    def piece(self, tokens: int, row: int = 0) -> None:
        """`tokens` more of one of the request's rows have just come; 0 changes nothing."""
        if not tokens:
            return
        now, before = time.monotonic(), self._last.get(row)
        self._last[row] = now
        self._meters._completion.labels(self._model).inc(tokens)
        self._add("completion_tokens", tokens)
        if before is not None:
            self._meters._gap.labels(self._model).observe((now - before) / tokens)
        elif len(self._last) == 1:
            self._meters._first.labels(self._model).observe(now - self._began)
            self._told["ttft_ms"] = round(1000 * (now - self._began), 1)

    def files(self, files: int, windows: int) -> None:
        """So many files were judged, in so many windows."""
        self._meters._files.labels(self._model).inc(files)
        self._meters._windows.labels(self._model).inc(windows)
        self._add("files", files)

    def _add(self, name: str, count: int) -> None:
        self._told[name] = int(self._told.get(name, 0)) + count


def loads(engines: "Mapping[str, Engine]") -> Iterable[GaugeMetricFamily]:
    """Of each engine at this moment: whether it runs, what it does, and what it has room for."""
    found = {name: load for name, engine in engines.items() if (load := _load(engine))}
    yield gauge("model_loaded", "1 where the engine runs", {n: float(n in found) for n in engines})
    for field, says in (
        ("running", "Sequences decoded at once (the batch)"),
        ("waiting", "Sequences that wait"),
        ("slots", "Most sequences decoded at once"),
        ("queue", "Most sequences that may wait"),
    ):
        yield gauge(field, says, {name: getattr(load, field) for name, load in found.items()})


def _load(engine: "Engine") -> "Load | None":
    try:
        return engine.load()
    except RuntimeError:  # it has stopped
        return None


def gauge(name: str, says: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """One number a model."""
    family = GaugeMetricFamily(f"icefloe_{name}", says, labels=["model"])
    for model, value in values.items():
        family.add_metric([model], value)
    return family


class _Found:
    """A collector of what was found already."""

    def __init__(self, found: list[GaugeMetricFamily]) -> None:
        self._found = found

    def collect(self) -> list[GaugeMetricFamily]:
        return self._found


def _counter(name: str, says: str, own: CollectorRegistry) -> Counter:
    return Counter(f"icefloe_{name}", says, ("model",), registry=own)


def _histogram(
    name: str, says: str, bounds: tuple[float, ...], own: CollectorRegistry
) -> Histogram:
    return Histogram(f"icefloe_{name}", says, ("model",), buckets=bounds, registry=own)
