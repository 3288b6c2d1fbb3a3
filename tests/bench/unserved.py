"""Completions without a server: transformers' `generate` in turn, and llama.cpp's own benchmark.

Knows nothing of HTTP.
"""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """One request: seconds to its first text and to its end, and the tokens it got."""

    first: float
    whole: float
    tokens: int


Round = tuple[list[Asked], float]
"""The requests of a round and the seconds it took."""
Way = Callable[[list[str]], Round]


class Sequential:
    """transformers' `generate`, one prompt after another, as if all had been asked for at once."""

    def __init__(self, model: Path, new: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(2)
        self.new = new
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)

    def __call__(self, prompts: list[str]) -> Round:
        start = time.perf_counter()
        found = [self._one(prompt, start) for prompt in prompts]
        return found, time.perf_counter() - start

    def _one(self, prompt: str, start: float) -> Asked:
        first = list[float]()
        inputs = self.tokenizer(prompt, return_tensors="pt")
        out = self.model.generate(
            **inputs, max_new_tokens=self.new, do_sample=False, streamer=_Clock(first)
        )
        tokens = out.shape[1] - inputs["input_ids"].shape[1]
        return Asked(first[1] - start, time.perf_counter() - start, int(tokens))


class _Clock:
    """Notes when tokens come; the prompt is the first that `generate` hands over."""

    def __init__(self, at: list[float]) -> None:
        self.at = at

    def put(self, _: Any) -> None:
        self.at.append(time.perf_counter())

    def end(self) -> None:
        pass


class LlamaCpp:
    """llama.cpp in float32 on as many texts at once: all prompts, then all new tokens. Random tokens and
    no server, so what its server reaches is less."""

    def __init__(self, binary: Path, gguf: Path, prompt: int, new: int) -> None:
        self.command = [str(binary), "-m", str(gguf), "-npp", str(prompt), "-ntg", str(new)]
        self.command += ["-t", "2", "-tb", "2", "--output-format", "jsonl"]
        self.room, self.new = prompt + new + 8, new

    def __call__(self, prompts: list[str]) -> Round:
        many = len(prompts)
        command = [*self.command, "-npl", str(many), "-c", str(many * self.room)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = next(json.loads(line) for line in said.splitlines() if line.startswith("{"))
        return [Asked(found["t_pp"], found["t"], self.new)] * many, found["t"]
