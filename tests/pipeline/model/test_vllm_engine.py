"""What is vLLM's alone: its death is told and not waited for, its limits are refused before they
reach it, its settings can be set."""

import importlib.util
import multiprocessing
import queue
from contextlib import closing
from pathlib import Path

import pytest
import torch

from pipeline.model.engine import Piece, Sampling, load
from pipeline.model.vllm_terms import asked
from tests.tiny import tiny_model_folder

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HAS_VLLM = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed (pip install vllm)")


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed")
def test_without_vllm_the_way_to_get_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pip install vllm"):
        load(tiny_model_folder(tmp_path), kind="vllm")


@needs_vllm
def test_what_vllm_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model folder"):
        load(tmp_path, kind="vllm", device=DEVICE)
    tiny_model_folder(tmp_path)
    with pytest.raises(ValueError, match="precision is 'int8'"):
        load(tmp_path, kind="vllm", device=DEVICE, precision="int8")
    with pytest.raises(ValueError, match="device is 'cuda:1'"):
        load(tmp_path, kind="vllm", device="cuda:1")
    for bad in ({"temperature": 3.0}, {"logit_bias": dict.fromkeys(range(1030), 0.0)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            asked(Sampling(**bad), 0, 9, 2000, frozenset())  # type: ignore[arg-type]


@needs_vllm
@pytest.mark.slow
def test_when_vllm_dies_all_calls_fail_and_so_does_load(tmp_path: Path) -> None:
    from pipeline.model.vllm_engine import Vllm

    before = multiprocessing.active_children()
    folder = tiny_model_folder(tmp_path, heads=1)
    greedy = Sampling(max_tokens=60, temperature=0, logit_bias=dict.fromkeys(range(7), -100.0))
    told: queue.Queue[Piece | Exception] = queue.Queue()
    options = {"max_model_len": 64}
    with closing(Vllm(folder, device=DEVICE, slots=2, queue=2, options=options)) as engine:
        assert engine.context == 64
        engine.submit([9], greedy, told.put)
        for process in set(multiprocessing.active_children()) - set(before):
            process.kill()
        last = told.get(timeout=60)
        while isinstance(last, Piece) and not last.finish_reason:
            last = told.get(timeout=60)
        assert isinstance(last, RuntimeError), last
        assert "start this server again" in str(last)
        for call in (
            engine.load,
            lambda: engine.complete([[9]], greedy),
            lambda: engine.logprobs([[9]]),
        ):
            with pytest.raises(RuntimeError, match="has died"):
                call()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit([9], greedy, told.put)
