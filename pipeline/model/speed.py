"""What makes a training loop fast and leaves its weights' names and values alone.

Per-layer compile, the order of attention kernels, TF32 for what stays in float32, oneDNN on CPUs,
recomputed activations, and a garbage collector that runs when told. Undone when the loop ends.
"""

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.core.errors import RecipeError
from pipeline.model.flops import per_token
from pipeline.model.masks import flexible
from pipeline.model.products import faster_linears
from pipeline.model.settings import FitConfig
from pipeline.model.world import layers

KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Attention on a GPU, the first that can (cuDNN is the fastest on Hopper, as in torchtitan)."""
COMPILING, SAVED, CPU_RATE = 60.0, 0.05, 1e11
"""Seconds that compiling takes two cores, the share of a step that it saves there, and their
operations a second (ours: 47 s measured on busy ones, 9 % beside a bare loop; rounded to be safe)."""
COLLECT = 1000
"""Steps between garbage collections (nanochat; one takes up to half a second)."""


@contextmanager
def quick(
    model: Any, cfg: FitConfig, tokens: int, length: int, device: torch.device
) -> Iterator[None]:
    """Train `model` in this block; tokens: of the whole phase, in sequences of `length`.

    RecipeError where compiling is asked for and there is no C++ compiler.
    """
    gpu, eager = device.type == "cuda", cfg.compile == "never"
    with ExitStack() as stack:
        stack.enter_context(collected())
        stack.enter_context(recomputed(model, cfg.recompute))
        stack.enter_context(flexible(model, gpu and cfg.mask_documents and not eager))
        if gpu and eager:  # the loss is compiled there too
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if gpu:
            stack.enter_context(sdpa_kernel(KERNELS, set_priority=True))
            stack.enter_context(_tf32())
        else:
            stack.enter_context(faster_linears(model))
        if _pays(model, cfg, tokens, length, device):
            stack.enter_context(compiled(model))
        yield


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Each layer compiled for one shape; all of them share the code, so depth costs nothing.

    In evaluation mode, where shapes vary, layers run as they are.
    """
    own = layers(model)
    for layer in own:
        layer.compile(fullgraph=True, dynamic=False)
        layer._compiled_call_impl = partial(_training_only, layer, layer._compiled_call_impl)
    try:
        yield
    finally:
        for layer in own:
            layer._compiled_call_impl = None


@contextmanager
def recomputed(model: Any, wanted: bool) -> Iterator[None]:
    """Keep only each layer's input for the backward pass, which computes the rest again."""
    if not wanted:
        yield
        return
    # transformers renames it; 5.17 knows the old name alone
    way = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    told = {f"{way}_checkpointing_kwargs": {"use_reentrant": False}}
    getattr(model, f"{way}_checkpointing_enable")(**told)
    try:
        yield
    finally:
        getattr(model, f"{way}_checkpointing_disable")()


@contextmanager
def collected() -> Iterator[None]:
    """No garbage collection but that of `collect`; what is there already is never looked at."""
    gc.collect()
    gc.freeze()
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if on:
            gc.enable()


def collect(step: int) -> None:
    """Collect garbage after every COLLECT-th step."""
    if (step + 1) % COLLECT == 0:
        gc.collect()


def _training_only(layer: nn.Module, fast: Any, *args: Any, **given: Any) -> Any:
    return (fast if layer.training else layer._call_impl)(*args, **given)


def _pays(model: Any, cfg: FitConfig, tokens: int, length: int, device: torch.device) -> bool:
    """Whether to compile; the same for every run of a phase, as it changes the rounding."""
    if cfg.compile == "never" or device.type != "cpu":
        return cfg.compile != "never"
    able = shutil.which(os.environ.get("CXX", "g++")) is not None
    if cfg.compile == "always":
        if not able:
            raise RecipeError("compile is always, but there is no C++ compiler; use auto, or CXX")
        return True
    seconds = per_token(model, length).causal * tokens / CPU_RATE
    return able and seconds * SAVED > COMPILING


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
