"""Our engine: completions in transformers alone, written together by one thread, step by step.

A step gives every text that is being written its next token and reads a piece of the prompts that
wait, all in one packed batch (continuous batching: Orca, OSDI 2022; pieces of prompts beside: Sarathi,
arXiv 2308.16369). Knows nothing of HTTP, Ray or benchmarks.
"""

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.model import scores
from pipeline.model.calls import Running, Voice
from pipeline.model.engine import (
    QUEUE,
    SLOTS,
    Completion,
    Full,
    Load,
    Sampling,
    Tell,
    never,
)
from pipeline.model.network import Network
from pipeline.model.prompts import Prompts, sentinels
from pipeline.model.sampling import pick
from pipeline.model.slots import Slot, Slots
from pipeline.model.store import Part
from pipeline.model.together import together
from pipeline.model.turns import turn

log = logging.getLogger(__name__)
READ = 256
"""Tokens of prompts read in a step: as many as keep a product busy, few enough that those being written
wait little (ours: 0.3 s of two cores for 100 million parameters)."""


class Batching:
    """See `engine.Engine`."""

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        device: str = "cpu",
        precision: Literal["exact", "int8"] = "exact",
        slots: int = SLOTS,
        queue: int = QUEUE,
        read: int = READ,
    ) -> None:
        """See `engine.load`. read: tokens of prompts read in a step."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.folder = Path(folder)
        self._network = Network(folder, device, precision)
        self.context, self.model = self._network.context, self._network.model
        self._prompts = Prompts(folder, self.context, self._network.size)
        self.tokenizer, self.info = self._prompts.tokenizer, self._prompts.info
        ends = np.atleast_1d(self.model.generation_config.eos_token_id).tolist()
        self._voice = Voice(self.tokenizer, sentinels(self.tokenizer, ends), self.context)
        self._store = self._network.store(slots, self.context)
        self._slots = Slots(self._store.slots, self._store.copy)
        self._queue, self._read = queue, read
        self._waiting: deque[Running] = deque()
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True, name="icefloe-engine")
        self._thread.start()
        atexit.register(self.close)  # a thread inside torch when the process ends would abort it

    def prompt(
        self, prefix: str, suffix: str | None = None, extra: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """See `Prompts.lay`."""
        return self._prompts.lay(prefix, suffix, extra)

    def submit(
        self, ids: Sequence[int], sampling: Sampling, tell: Tell, sample: int = 0
    ) -> Running:
        """See `engine.Engine`."""
        call = self._call(ids, sampling, tell, sample)
        with self._wake:
            busy = len(self._waiting) + len(self._slots.active)
            if busy >= len(self._slots.all) + self._queue:
                raise Full(f"{self._queue} completions wait for a slot; try again shortly")
            self._enqueue([call])
        return call

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        cancel: Callable[[], bool] = never,
    ) -> list[Completion]:
        """See `engine.Engine`. These calls need no place in the queue."""

        def begin(tellers: Sequence[Tell]) -> list[Running]:
            pairs = zip(prompts, tellers, strict=True)
            calls = [self._call(p, sampling, tell, i) for i, (p, tell) in enumerate(pairs)]
            with self._wake:
                self._enqueue(calls)
            return calls

        return together(begin, [len(p) for p in prompts], cancel)

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """See `engine.Engine`. Computed in the caller's thread, a turn at a time."""
        self.load()  # nothing more once it has stopped
        self._prompts.scorable(sequences)
        return scores.logprobs(self._network, sequences)

    def load(self) -> Load:
        """See `engine.Engine`."""
        if not self._thread.is_alive():
            raise RuntimeError("this engine has stopped")
        with self._wake:
            running, size = len(self._slots.active), len(self._slots.all)
            return Load(running, len(self._waiting), size, self._queue)

    def close(self) -> None:
        """See `engine.Engine`."""
        atexit.unregister(self.close)
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._store.held.clear()

    def _call(self, ids: Sequence[int], sampling: Sampling, tell: Tell, sample: int) -> Running:
        self._prompts.fits(ids)
        self._prompts.known(sampling.logit_bias)
        return Running(ids, sampling, tell, sample, self._voice)

    def _enqueue(self, calls: Sequence[Running]) -> None:
        if self._closed:
            raise RuntimeError("this engine is closed")
        self._waiting.extend(calls)
        self._wake.notify()

    def _work(self) -> None:
        """What the thread does: steps while there are calls, until the engine is closed."""
        while self._next():
            self._end_cancelled()
            active = self._slots.active
            try:
                self._step(active)
            except Exception as error:
                log.exception("a step failed, and %d completions with it", len(active))
                for slot in active:
                    slot.tokens = []  # nobody knows how far they got
                    _fail(slot.call, error)
            for slot in active:
                if slot.call and slot.call.done:
                    self._slots.leave(slot)

    def _next(self) -> bool:
        """Wait for calls and give them slots; False once the engine is closed and empty."""
        with self._wake:
            self._running = len(self._slots.active)  # `load` tells it while this waits
            self._wake.wait_for(lambda: self._waiting or self._slots.active or self._closed)
            if self._closed:
                for call in (*self._waiting, *(s.call for s in self._slots.active if s.call)):
                    call.cancel()
            self._admit()
            return bool(self._slots.active or self._waiting or not self._closed)

    def _admit(self) -> None:
        """Slots for those that wait, first come first served; who will find its prompt read by
        another one after the next step is passed over until then."""
        unread = (len(s.ids) - len(s.tokens) for s in self._slots.active)
        room = self._read - sum(n for n in unread if n > 1)
        # Whoever has left gives its place in the queue back, however far behind it is.
        left = [call for call in self._waiting if call.cancelled]
        first = list(self._waiting)[: 2 * len(self._slots.all)]
        for call in dict.fromkeys([*left, *first]):
            try:
                if call.cancelled or not (call.wants or call.sampling.prompt_logprobs):
                    call.end("cancelled" if call.cancelled else "length")
                elif room > 0 and (slot := self._slots.take(call)):
                    room -= len(slot.ids) - len(slot.tokens)
                else:
                    continue
            except Exception as error:
                log.exception("a completion found no slot")
                _fail(call, error)
            self._waiting.remove(call)

    def _end_cancelled(self) -> None:
        for slot in self._slots.active:
            if slot.call and slot.call.cancelled:
                slot.call.end("cancelled")
                self._slots.leave(slot)

    def _step(self, active: Sequence[Slot]) -> None:
        """A token for every text that is being written, and the next piece of prompts."""
        active = [s for s in active if s.call]
        parts = _parts(active, self._read)
        if not parts:
            return
        with turn(str(self._network.device)):
            logits = self._network.run(self._store, parts)
        mine = {s.number: s for s in active}
        written = []
        kept = torch.split(logits, [p.keep for p in parts])  # type: ignore[no-untyped-call]
        for part, of in zip(parts, kept, strict=True):
            slot = mine[part.slot]
            slot.tokens.extend(part.ids)
            assert slot.call
            if slot.call.sampling.prompt_logprobs and part.start < len(slot.call.ids):
                slot.call.score(*scores.of_prompt(of, slot.ids, part, slot.call.sampling))
            if len(slot.tokens) == len(slot.ids):
                written.append((slot, slot.call, of[-1]))
        self._write(written)

    def _write(self, rows: Sequence[tuple[Slot, Running, torch.Tensor]]) -> None:
        """Draw the next token of each row from its logits (V,), and tell it."""
        for _, call, _ in rows:
            if not call.wants:
                call.end("length")
        rows = [row for row in rows if not row[1].done]
        if not rows:
            return
        calls = [call for _, call, _ in rows]
        found = pick(
            torch.stack([of for *_, of in rows]),
            [c.sampling for c in calls],
            [c.counts for c in calls],
            [c.draw() for c in calls],
        )
        for (slot, call, _), picked in zip(rows, found, strict=True):
            slot.ids.append(picked.token)
            call.take(picked)


def _fail(call: Running | None, error: Exception) -> None:
    if call and not call.done:
        call.fail(error)


def _parts(active: Sequence[Slot], read: int) -> list[Part]:
    """What a step computes: the newest token of each text, and up to `read` tokens of prompts."""
    parts = []
    for slot in active:
        assert slot.call
        done = len(slot.tokens)
        size = len(slot.ids) - done
        if size > 1:
            size = min(size, read)
            read -= size
        if size:
            ids = slot.ids[done : done + size]
            scored = slot.call.sampling.prompt_logprobs and done < len(slot.call.ids)
            last = done + size == len(slot.ids)
            parts.append(Part(slot.number, done, ids, size if scored else int(last)))
    return parts
