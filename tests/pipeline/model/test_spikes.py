"""A step that is a spike leaves no trace in weights or moments, is counted, and a kill changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model.optimizer import adamw
from pipeline.model.spikes import Spikes
from pipeline.model.world import World
from tests.packed import CONFIG, train

GUARDED = replace(CONFIG, skip=6.0, skip_window=8)


def taken(model: torch.nn.Module, cfg: Any, losses: list[float]) -> tuple[list[int], list[Any]]:
    """Which of the losses are spikes, and the weights after each."""
    optimizer = adamw(model, cfg)
    spikes = Spikes(cfg, World(), [])
    told, weights = [], []
    for loss in losses:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        told.append(int(spikes.check(optimizer, torch.tensor(loss), torch.tensor(1.0))))
        optimizer.step()
        weights.append([p.detach().clone() for p in model.parameters()])
    return told, weights


def test_a_spike_is_left_out_and_the_step_after_it_goes_on() -> None:
    calm = [2.0, 2.1, 1.9, 2.0, 2.1]
    told, weights = taken(torch.nn.Linear(3, 2), GUARDED, [*calm, 9.0, 2.0])
    assert told == [0, 0, 0, 0, 0, 1, 0]
    assert all(map(torch.equal, weights[5], weights[4]))
    assert not torch.equal(weights[6][0], weights[5][0])


def test_a_left_out_step_is_as_if_it_had_not_been() -> None:
    torch.manual_seed(0)
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    calm = [2.0, 2.1, 1.9, 2.0, 2.1]
    with_spike = taken(one, GUARDED, [*calm, 9.0, 2.0])[1][-1]
    without = taken(other, GUARDED, [*calm, 2.0])[1][-1]
    assert all(map(torch.equal, with_spike, without))


def test_a_lasting_rise_is_soon_the_mean() -> None:
    told, _ = taken(torch.nn.Linear(3, 2), GUARDED, [2.0, 2.1] * 4 + [9.0, 9.1] * 4)
    assert sum(told) <= 2
    assert told[-1] == 0


def test_the_window_comes_back_bit_for_bit() -> None:
    losses = torch.rand(30, generator=torch.Generator().manual_seed(1))
    optimizer = adamw(torch.nn.Linear(3, 2), GUARDED)
    going = Spikes(GUARDED, World(), [])
    for loss in losses[:21]:
        going.check(optimizer, loss, loss / 3)
    read = json.loads(json.dumps([[x.item(), (x / 3).item()] for x in losses[:21]]))
    again = Spikes(GUARDED, World(), [(a, b) for a, b in read])
    assert torch.equal(going.seen, again.seen)
    assert going.steps == again.steps


def test_training_with_skipped_steps_resumes_exactly(tmp_path: Path) -> None:
    """So low a limit that ordinary steps are left out."""
    settings = {"skip": 0.5, "skip_window": 4}

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 7:
            raise KeyboardInterrupt

    summary = train(folder=tmp_path / "calm", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "rough", on_step=stop, **settings)
    assert train(folder=tmp_path / "rough", **settings)["skipped"] == summary["skipped"] > 0
    lines = [
        [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("calm", "rough")
    ]
    kept = [[(x["loss"], x["grad_norm"], x["skipped"]) for x in found] for found in lines]
    assert kept[0] == kept[1]
    assert sum(x["skipped"] for x in lines[0]) == summary["skipped"]
    for name in ("model", "optimizer"):
        files = [
            p.read_bytes()
            for n in ("calm", "rough")
            for p in (tmp_path / n).glob(f"checkpoints/step-00000012/{name}*")
        ]
        assert len(set(files)) == 1, name


def test_without_a_limit_every_step_is_taken() -> None:
    told, _ = taken(torch.nn.Linear(3, 2), CONFIG, [2.0] * 130 + [1e9])
    assert sum(told) == 0
