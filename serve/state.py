"""What one replica has loaded, looked up by the names that clients send.

Routes get it when they are made and ask it at every request, so that they exist before the models
do. Knows nothing of HTTP beyond the refusals it raises.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve.collector import Collector
from serve.guard import AGAIN, Refusal
from serve.metrics import Meters
from serve.seeds import Numbering
from serve.settings import Settings

if TYPE_CHECKING:  # torch and transformers take seconds; only the replica pays them
    from pipeline.model.engine import Engine
    from pipeline.model.judges import Judge
    from pipeline.model.scorer import Score

PLACES = 32
"""Requests that may wait for the judge, those at work included (ours)."""


@dataclass
class State:
    """Models by name, the first the default; none before they are loaded. `judge` may stay None.

    `facts` by name are what a model was loaded with, for `/v1/models`; `standing` is what export wrote
    of the corpus's scores, if it did. `settings` is replaced as a whole when they change: read it at
    every request.
    """

    engines: Mapping[str, "Engine"] = field(default_factory=dict)
    judge: "Judge | None" = None
    settings: Settings = field(default_factory=Settings)
    meters: Meters = field(default_factory=Meters)
    numbering: Numbering = field(default_factory=Numbering)
    places: int = PLACES
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    standing: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.judging = Collector(self._judge, self.places)

    @property
    def trouble(self) -> str | None:
        """Why new requests are better sent elsewhere; None where all is well."""
        if not self.engines:
            return "the models are still loading"
        if self.settings.draining:
            return "this server is going away"
        return self.broken

    @property
    def broken(self) -> str | None:
        """Which engine has stopped, so that only a new replica helps; None where all run."""
        for name, engine in self.engines.items():
            try:
                engine.load()
            except RuntimeError as e:
                return f"model {name!r}: {e}"
        return None

    def check_ready(self) -> None:
        """Refusal 503 where there is trouble."""
        if trouble := self.trouble:
            raise Refusal(503, trouble, code="not_ready", headers=AGAIN)

    def engine(self, asked: str | None = None) -> tuple[str, "Engine"]:
        """The model of this name, or the default one. Refusal 404, or 503 while none is loaded."""
        if not self.engines:
            raise _loading()
        name = asked or next(iter(self.engines))
        if name not in self.engines:
            raise _unknown(name, self.engines)
        return name, self.engines[name]

    def judged(self, asked: str | None = None) -> "Judge":
        """The judge of files. Refusal as for `engine`, and 404 where none is served."""
        if not self.engines:
            raise _loading()
        if self.judge is None:
            message = "no annotator is served here: serve a release, or name an annotator's folder"
            raise Refusal(404, message, "model", "model_not_found")
        if asked not in (None, self.judge.name):
            raise _unknown(asked, [self.judge.name])
        return self.judge

    def _judge(self, texts: Sequence[str]) -> "list[Score]":
        judge = self.judged()
        self.meters.batch(judge.name, len(texts))
        return judge.score(texts, located=True)


def _loading() -> Refusal:
    return Refusal(503, "the models are still loading", code="loading", headers=AGAIN)


def _unknown(asked: str | None, have: Iterable[str]) -> Refusal:
    names = ", ".join(map(repr, have))
    return Refusal(404, f"no model {asked!r} here; there is {names}", "model", "model_not_found")
