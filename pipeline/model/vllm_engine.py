"""vLLM's asynchronous engine behind `engine.Engine`, for machines with a GPU.

Layouts, sentinels, stop strings and pieces are ours, as for `batching`: vLLM sees token ids alone, and
computes in a process of its own. Imports vLLM when an engine is made. Knows nothing of HTTP or Ray.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from pipeline.model.calls import Running, Voice
from pipeline.model.engine import (
    QUEUE,
    SLOTS,
    Completion,
    Finish,
    Full,
    Load,
    Sampling,
    Tell,
    never,
)
from pipeline.model.prompts import Prompts, sentinels
from pipeline.model.together import together
from pipeline.model.vllm_terms import (
    arguments,
    asked,
    ends,
    picked,
    possible,
    prompt_scores,
    scoring,
    sequence_scores,
    started,
)

_ENDS: dict[str, Finish] = {"stop": "stop", "length": "length", "abort": "cancelled"}
T = TypeVar("T")


class Vllm:
    """See `engine.Engine`. A seed's draws are vLLM's, not ours; greedy answers are the same.

    Once vLLM has died, every call fails with a RuntimeError, and so does `load`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "cuda",
        precision: Literal["exact", "int8"] = "exact",
        slots: int = SLOTS,
        queue: int = QUEUE,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Load `folder` (local, safetensors): bfloat16 on a GPU, float32 on a CPU.

        `options` are fields of vLLM's AsyncEngineArgs over those set here, such as
        tensor_parallel_size, or gpu_memory_utilization where models share a GPU. ValueError if the
        folder is no model, or for what vLLM cannot do.
        """
        path = Path(folder)
        possible(path, device, precision)
        self.folder = path
        self.slots, self.queue = slots, queue
        self._lock, self._numbers, self._closed = threading.Lock(), count(), False
        self._calls: dict[_Request, Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="vllm")
        self._thread.start()
        try:
            self._engine = self._run(started(arguments(path, device, slots) | dict(options or {})))
        except BaseException:
            self._stop()
            raise
        config = self._engine.model_config
        self.context = int(config.max_model_len)
        self._prompts = Prompts(path, self.context, config.get_vocab_size())
        self.tokenizer, self.info = self._prompts.tokenizer, self._prompts.info
        self._voice = Voice(self.tokenizer, sentinels(self.tokenizer, ends(config)), self.context)
        self._warm_up()

    def prompt(
        self, prefix: str, suffix: str | None = None, extra: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """See `Prompts.lay`."""
        return self._prompts.lay(prefix, suffix, extra)

    def submit(
        self, ids: Sequence[int], sampling: Sampling, tell: Tell, sample: int = 0
    ) -> "_Request":
        """See `engine.Engine`."""
        self._check(ids, sampling)
        with self._lock:
            if self._open() >= self.slots + self.queue:
                raise Full(f"{self.queue} completions wait for a slot")
            return self._begin(ids, sampling, tell, sample)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        cancel: Callable[[], bool] = never,
    ) -> list[Completion]:
        """See `engine.Engine`. These calls need no place in the queue."""
        for ids in prompts:
            self._check(ids, sampling)

        def begin(tellers: Sequence[Tell]) -> list[_Request]:
            pairs = zip(prompts, tellers, strict=True)
            with self._lock:
                return [self._begin(ids, sampling, t, i) for i, (ids, t) in enumerate(pairs)]

        return together(begin, [len(p) for p in prompts], cancel)

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """See `engine.Engine`."""
        self._prompts.scorable(sequences)
        self._alive()
        return self._run(self._scores(sequences))

    def load(self) -> Load:
        """See `engine.Engine`."""
        self._alive()
        with self._lock:
            calls = self._open()
        return Load(min(calls, self.slots), max(calls - self.slots, 0), self.slots, self.queue)

    def close(self) -> None:
        """See `engine.Engine`."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        for call in list(self._calls):
            call.cancel()
        wait(list(self._calls.values()), timeout=10)
        self._run(_end_others())
        self._engine.shutdown()
        self._stop()

    def _check(self, ids: Sequence[int], sampling: Sampling) -> None:
        self._prompts.fits(ids)
        self._prompts.known(sampling.logit_bias)

    def _alive(self) -> None:
        if self._closed:
            raise RuntimeError("this engine is closed")
        if self._engine.errored:
            raise _died()

    def _open(self) -> int:
        return sum(not call.done for call in self._calls)

    def _begin(self, ids: Sequence[int], sampling: Sampling, tell: Tell, sample: int) -> "_Request":
        self._alive()
        name = f"{next(self._numbers)}"
        call = _Request(name, self._abort, ids, sampling, tell, sample, self._voice)
        room = self.context - len(ids)
        params = asked(sampling, sample, room, self._prompts.size, self._voice.stops)
        self._calls[call] = asyncio.run_coroutine_threadsafe(self._write(call, params), self._loop)
        return call

    def _abort(self, request: str) -> None:
        asyncio.run_coroutine_threadsafe(self._engine.abort(request), self._loop)

    async def _write(self, call: "_Request", params: Any) -> None:
        """One call from beginning to end, whatever happens."""
        try:
            await self._follow(call, params)
        except Exception as error:
            if not call.done:  # else all has been told
                call.fail(_died() if self._engine.errored else error)
        finally:
            with self._lock:
                del self._calls[call]

    async def _follow(self, call: "_Request", params: Any) -> None:
        if call.cancelled:
            return call.end("cancelled")
        if not call.wants and not call.sampling.prompt_logprobs:
            return call.end("length")
        # Leaving the block before the last output takes the request out of vLLM.
        async with aclosing(self._outputs(call.ids, params, call.request)) as outputs:
            async for output in outputs:
                _hear(call, output)
                if call.done:
                    return None
        return call.end("length")

    def _outputs(self, ids: Sequence[int], params: Any, request: str) -> Any:
        from vllm.inputs import tokens_input

        return self._engine.generate(tokens_input(list(ids)), params, request)

    async def _scores(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        turn = asyncio.Semaphore(self.slots)

        async def one(ids: Sequence[int]) -> np.ndarray:
            async with turn:
                return await self._score(ids)

        return await asyncio.gather(*map(one, sequences))

    async def _score(self, ids: Sequence[int]) -> np.ndarray:
        """All but the last token are the prompt, so that a sequence may fill the context."""
        if len(ids) < 2:
            return np.zeros(0, dtype=np.float32)
        outputs = self._outputs(ids[:-1], scoring(ids[-1]), f"{next(self._numbers)}")
        return [sequence_scores(ids, output) async for output in outputs][-1]

    def _warm_up(self) -> None:
        """What vLLM compiles at its first request of a kind is compiled before a caller waits."""
        ids = [min(self._voice.stops)] * 2
        warm = Sampling(max_tokens=2, seed=0, top_p=0.9, top_logprobs=1, prompt_logprobs=True)
        self.complete([ids], warm)
        self.logprobs([ids])

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Request(Running):
    """A call that vLLM knows by the name `request`."""

    def __init__(self, request: str, abort: Callable[[str], None], *call: Any) -> None:
        super().__init__(*call)
        self.request, self._abort = request, abort

    def cancel(self) -> None:
        """See `engine.Call`."""
        super().cancel()
        if not self.done:
            self._abort(self.request)


async def _end_others() -> None:
    """vLLM's own tasks would take its end for an accident."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _hear(call: _Request, output: Any) -> None:
    """Pass on what vLLM says of a request."""
    call.cached_tokens = output.num_cached_tokens or 0
    if output.prompt_logprobs:
        call.prompt = prompt_scores(call.ids, output.prompt_logprobs, call.sampling)
    if call.cancelled or not call.wants:
        return call.end("cancelled" if call.cancelled else "length")
    answer = output.outputs[0]
    for token in picked(answer, call.sampling):
        call.take(token)
        if call.done:
            return None
    if answer.finish_reason == "error":
        raise RuntimeError("vLLM gave a request up: its log says why")
    return call.end(_ENDS[answer.finish_reason]) if answer.finish_reason else None


def _died() -> RuntimeError:
    return RuntimeError("vLLM's engine has died, its log says why: start this server again")
