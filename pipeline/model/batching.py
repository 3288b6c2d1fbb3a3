"""Our engine: completions in transformers alone, by one thread that takes a step at a time.

Knows nothing of HTTP, Ray or benchmarks.
"""

import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, DynamicCache

from pipeline.model.calls import Running
from pipeline.model.engine import (
    QUEUE,
    SLOTS,
    Completion,
    Full,
    Load,
    Piece,
    PromptScores,
    Sampling,
    Tell,
    never,
)
from pipeline.model.prompts import Prompts, sentinels
from pipeline.model.sampling import likeliest, pick

log = logging.getLogger(__name__)
_LOGITS = 1 << 26
"""Most logits held at once when scoring text: 256 MiB of float32 (ours)."""


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
        budget: int = 1 << 15,
    ) -> None:
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} is no model folder: no config.json")
        if threads is not None:
            torch.set_num_threads(threads)
        self.folder = path
        self.device, self.budget = torch.device(device), budget
        self.slots, self.queue = slots, queue
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32 if self.device.type == "cpu" else torch.bfloat16,
        )
        self.model.to(self.device).eval()
        self.context = int(self.model.config.max_position_embeddings)
        self._prompts = Prompts(path, self.context, self.model.config.vocab_size)
        self.tokenizer, self.info = self._prompts.tokenizer, self._prompts.info
        ends = np.atleast_1d(self.model.generation_config.eos_token_id).tolist()
        self._stops = sentinels(self.tokenizer, ends)
        accepts = inspect.signature(self.model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}
        self._waiting: deque[Running] = deque()
        self._running = 0
        self._closed = False
        self._turn = threading.Lock()
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True, name="engine")
        self._thread.start()

    def prompt(
        self, prefix: str, suffix: str | None = None, extra: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """See `Prompts.lay`."""
        return self._prompts.lay(prefix, suffix, extra)

    def submit(
        self, ids: Sequence[int], sampling: Sampling, tell: Tell, sample: int = 0
    ) -> Running:
        """See `engine.Engine`."""
        self._prompts.fits(ids)
        self._prompts.known(list(sampling.logit_bias))
        call = Running(ids, sampling, tell, sample, self.context - len(ids))
        with self._wake:
            if len(self._waiting) >= self.queue:
                raise Full(f"{self.queue} completions wait for a slot")
            self._enqueue([call])
        return call

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        cancel: Callable[[], bool] = never,
    ) -> list[Completion]:
        """See `engine.Engine`. These calls need no place in the queue."""
        for ids in prompts:
            self._prompts.fits(ids)
        told: list[list[Piece | Exception]] = [[] for _ in prompts]
        finished = threading.Semaphore(0)

        def hear(row: int, what: Piece | Exception) -> None:
            told[row].append(what)
            if isinstance(what, Exception) or what.finish_reason:
                finished.release()

        calls = [
            Running(ids, sampling, lambda what, i=i: hear(i, what), i, self.context - len(ids))  # type: ignore[misc]
            for i, ids in enumerate(prompts)
        ]
        with self._wake:
            self._enqueue(calls)
        for _ in calls:
            while not finished.acquire(timeout=0.05):
                if cancel():
                    for call in calls:
                        call.cancel()
        return [_joined(pieces, len(ids)) for pieces, ids in zip(told, prompts, strict=True)]

    def load(self) -> Load:
        """See `engine.Engine`."""
        if not self._thread.is_alive():
            raise RuntimeError("this engine has stopped")
        with self._wake:
            return Load(self._running, len(self._waiting), self.slots, self.queue)

    def close(self) -> None:
        """See `engine.Engine`."""
        with self._wake:
            self._closed = True
            for call in self._waiting:
                call.cancel()
            self._wake.notify()
        self._thread.join()

    @torch.inference_mode()
    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """See `engine.Engine`."""
        for ids in sequences:
            if len(ids) > self.context:
                raise ValueError(
                    f"a sequence has {len(ids)} tokens, the model's context is {self.context}"
                )
            self._prompts.known(ids)
        out: dict[int, np.ndarray] = {}
        for rows in self._portions([len(s) for s in sequences]):
            with self._turn:
                scores = self._score([sequences[r] for r in rows])
            out |= {r: scores[k, : max(len(sequences[r]) - 1, 0)] for k, r in enumerate(rows)}
        return [out[i] for i in range(len(sequences))]

    def _enqueue(self, calls: Sequence[Running]) -> None:
        if self._closed:
            raise RuntimeError("this engine is closed")
        self._waiting.extend(calls)
        self._wake.notify()

    def _work(self) -> None:
        """What the thread does: one call after the other, until the engine is closed."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                call = self._waiting.popleft()
                self._running = 1
            try:
                self._write(call)
            except Exception as e:
                log.exception("a completion failed")
                call.fail(e)
            self._running = 0

    @torch.inference_mode()
    def _write(self, call: Running) -> None:
        call.begin(self.tokenizer, self._stops)
        cache = DynamicCache(config=self.model.config)
        ids = call.ids
        if call.sampling.prompt_logprobs:
            call.prompt = self._prompt_scores(call)
        while not call.done:
            if call.cancelled or self._closed:
                return call.end("cancelled")
            if not call.wants:
                return call.end("length")
            with self._turn:
                logits = self.model(
                    input_ids=torch.tensor([ids], device=self.device),
                    past_key_values=cache,
                    use_cache=True,
                    **self._last,
                ).logits[:, -1]
            picked = pick(logits.float(), [call.sampling], [call.counts], [call.draw()])[0]
            call.take(picked)
            ids = [picked.token]
        return None

    def _prompt_scores(self, call: Running) -> PromptScores:
        logits = self.model(input_ids=torch.tensor([call.ids], device=self.device)).logits[0]
        logprobs = logits.float().log_softmax(-1)
        of = logprobs[:-1].gather(-1, torch.tensor(call.ids[1:])[:, None])[:, 0].tolist()
        tops = likeliest(logprobs[:-1], [call.sampling.top_logprobs] * len(of))
        return PromptScores([None, *of], [None, *tops])

    def _portions(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Row numbers, shortest first, in portions of at most `budget` padded places."""
        part: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda r: lengths[r]):
            if part and (len(part) + 1) * lengths[row] > self.budget:
                yield part
                part = []
            part.append(row)
        if part:
            yield part

    def _score(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probabilities (rows, T - 1), right padded; past its end a row holds noise."""
        width = max(map(len, sequences))
        padded = torch.tensor([[*s, *[0] * (width - len(s))] for s in sequences], dtype=torch.long)
        ids = padded.to(self.device)
        columns = max(1, _LOGITS // (len(sequences) * self.model.config.vocab_size))
        cache = DynamicCache(config=self.model.config)
        out = [np.zeros((len(sequences), 0), dtype=np.float32)]
        for start in range(0, width - 1, columns):
            part = ids[:, start : min(start + columns, width - 1)]
            logits = self.model(input_ids=part, past_key_values=cache, use_cache=True).logits
            target = ids[:, start + 1 : start + 1 + part.shape[1]]
            flat = logits.flatten(0, 1).float(), target.flatten()
            loss = functional.cross_entropy(*flat, reduction="none").view(target.shape)
            out.append(-loss.cpu().numpy())
        return np.concatenate(out, axis=1)


def _joined(told: Sequence[Piece | Exception], prompt_tokens: int) -> Completion:
    """All that a call told, as one completion; raises what it failed with."""
    pieces = []
    for what in told:
        if isinstance(what, Exception):
            raise what
        pieces.append(what)
    return Completion(
        "".join(p.text for p in pieces),
        [t for p in pieces for t in p.tokens],
        pieces[-1].finish_reason or "length",
        [x for p in pieces for x in p.logprobs],
        prompt_tokens,
    )
