"""Faster ways give the same losses and gradients, and leave no trace on the model."""

import copy
import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoModelForCausalLM

from pipeline.core.errors import RecipeError
from pipeline.model import speed
from pipeline.model.architectures import ARCHITECTURES, build
from pipeline.model.objective import Objective
from pipeline.model.products import faster_linears
from pipeline.model.settings import FitConfig
from pipeline.model.world import layers
from tests.packed import train

TINY = [n for n in ARCHITECTURES if n.endswith("-tiny")]
IDS = torch.randint(320, (2, 32), generator=torch.Generator().manual_seed(1))
CPU = torch.device("cpu")


def grads(model: Any) -> dict[str, torch.Tensor]:
    """The gradients of one pass in training mode, the same dropout each time."""
    model.train().zero_grad()
    torch.manual_seed(3)
    Objective(model)(IDS, IDS).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", TINY)
def test_recomputing_changes_no_gradient(name: str) -> None:
    model = build(name, 320, 64, seed=1)
    kept = grads(model)
    with speed.recomputed(model, True):
        again = grads(model)
    assert all(torch.equal(kept[n], again[n]) for n in kept)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())


@pytest.mark.parametrize("name", TINY)
def test_onednn_gives_the_same_gradients(name: str) -> None:
    model = build(name, 320, 64, seed=1)
    before = grads(model)
    with faster_linears(model):
        after = grads(model)
    for n in before:
        torch.testing.assert_close(before[n], after[n], rtol=1e-4, atol=1e-3)
    assert not [m for m in model.modules() if type(m).__name__ == "_FasterLinear"]


def test_layers_of_any_number_compile_once_and_keep_their_names() -> None:
    cfg = ARCHITECTURES["snowcoder-tiny"].config(320, 64)
    cfg.num_hidden_layers = 10  # more than recompiles are allowed
    model = AutoModelForCausalLM.from_config(cfg)
    names, plain = list(model.state_dict()), grads(model)
    assert len(layers(model)) == 10
    torch.compiler.reset()
    counted = CompileCounterWithBackend("aot_eager")
    with faster_linears(model):
        for layer in layers(model):
            layer.compile(fullgraph=True, dynamic=False, backend=counted)
        fast = grads(model)
    assert counted.frame_count == 1
    assert list(model.state_dict()) == names
    for n in plain:
        torch.testing.assert_close(plain[n], fast[n], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", TINY)
def test_every_architecture_compiles_whole_layers(name: str) -> None:
    model = build(name, 320, 64, seed=1).eval()
    plain = model(input_ids=IDS).logits
    torch.compiler.reset()
    for layer in layers(model):
        layer.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(model(input_ids=IDS).logits, plain, rtol=1e-5, atol=1e-5)


def test_compiling_leaves_no_trace() -> None:
    model = build("snowcoder-tiny", 320, 64, seed=1)
    with speed.compiled(model):
        model(input_ids=IDS)  # in evaluation mode, and so not compiled
        assert all(x._compiled_call_impl is not None for x in layers(model))
    assert all(x._compiled_call_impl is None for x in layers(model))
    copy.deepcopy(model)


def test_compiling_is_chosen_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("snowcoder-tiny", 4096, 256, seed=1)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++")
    pays = {n: speed._pays(model, FitConfig(), n, 256, CPU) for n in (10**6, 10**9)}
    assert pays == {10**6: False, 10**9: True}
    assert speed._pays(model, FitConfig(compile="always"), 1, 256, CPU)
    assert not speed._pays(model, FitConfig(compile="never"), 10**12, 256, CPU)
    assert speed._pays(model, FitConfig(), 1, 256, torch.device("cuda"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not speed._pays(model, FitConfig(), 10**9, 256, CPU)
    with pytest.raises(RecipeError, match="no C\\+\\+ compiler"):
        speed._pays(model, FitConfig(compile="always"), 1, 256, CPU)


def test_garbage_is_collected_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gc.isenabled()
    with speed.collected():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    calls: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: calls.append(1))
    for step in range(2 * speed.COLLECT):
        speed.collect(step)
    assert len(calls) == 2


def test_a_recomputing_run_is_the_same_run(tmp_path: Path) -> None:
    plain = train(folder=tmp_path / "plain", documents=12)
    again = train(folder=tmp_path / "again", documents=12, recompute=True)
    assert plain["loss_last"] == again["loss_last"]
