"""Checkpoints come back bit for bit or not at all; published folders load in plain transformers."""

import itertools
import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.core.errors import StageError
from pipeline.model import architectures, checkpoint
from pipeline.model.objective import Objective
from pipeline.model.optimizer import adamw
from tests.packed import CONFIG
from tests.tiny import TEXTS, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = architectures.build("snowcoder-tiny", 64, 16, seed=0)
    optimizer = adamw(model, CONFIG)
    ids = torch.arange(32).reshape(2, 16)
    for _ in range(steps):
        Objective(model)(ids, ids).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def same(a: tuple[torch.nn.Module, torch.optim.Optimizer], b: object) -> bool:
    """Equal bits in the weights and in Adam's moments and step counts."""
    (m, o), (n, p) = a, b  # type: ignore[misc]
    weights = zip(m.parameters(), n.parameters(), strict=True)
    moments = [
        (o.state[x].get(k), p.state[y].get(k))
        for x, y in zip(m.parameters(), n.parameters(), strict=True)
        for k in ("step", "exp_avg", "exp_avg_sq")
    ]
    return all(torch.equal(x, y) for x, y in weights) and all(
        x is not None and y is not None and torch.equal(x, y) for x, y in moments
    )


def test_round_trip_is_exact(tmp_path: Path) -> None:
    old, new = trained(3), trained(0)
    checkpoint.save(tmp_path, 3, *old, {"steps": 3, "loss": 0.1})
    assert checkpoint.load_latest(tmp_path, *new) == {"steps": 3, "loss": 0.1}
    assert same(old, new)
    assert checkpoint.load_latest(tmp_path / "none", *trained(0)) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "state"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, newest, found = trained(1), trained(2), trained(0)
    checkpoint.save(tmp_path, 1, *good, {"steps": 1})
    path = checkpoint.save(tmp_path, 2, *newest, {"steps": 2})
    victim = path / ("state.json" if damage == "state" else "optimizer.safetensors")
    data = bytearray(victim.read_bytes())
    if damage == "delete":
        victim.unlink()
    else:
        data[len(data) // 2] ^= 1 << 6
        victim.write_bytes(data if damage != "cut" else data[: len(data) // 2])
    with caplog.at_level(logging.WARNING, "pipeline"):
        meta = checkpoint.load_latest(tmp_path, *found)
    assert (meta, same(good, found)) == ({"steps": 1}, True)
    assert "step-00000002" in caplog.text
    checkpoint.save(tmp_path, 2, *newest, {"steps": 2})
    assert checkpoint.load_latest(tmp_path, *found) == {"steps": 2}


def test_half_written_ones_are_no_checkpoints_and_go_away(tmp_path: Path) -> None:
    half = tmp_path / ".half-00000009"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"torn")
    assert checkpoint.load_latest(tmp_path, *trained(0)) is None
    checkpoint.save(tmp_path, 1, *trained(1), {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_kill_between_any_two_operations_leaves_the_older_one(tmp_path: Path) -> None:
    """Every write, removal, rename and opening of a file below the folder is such a point."""
    older, newer, found = trained(1), trained(2), trained(0)
    seen = set()
    for point in range(1, 100):
        folder = tmp_path / str(point)
        checkpoint.save(folder, 1, *older, {"steps": 1})
        torn = folder / ".half-00000002"  # of a kill before this one
        torn.mkdir()
        (torn / "model.safetensors").write_bytes(b"torn")
        if killed(folder, point, partial(checkpoint.save, folder, 2, *newer, {"steps": 2})):
            meta = checkpoint.load_latest(folder, *found)
            assert meta is not None
            assert same(older if meta["steps"] == 1 else newer, found)
            seen.add(meta["steps"])
        else:
            break
    assert seen == {1, 2}  # the last point is after the rename
    assert 8 < point < 99


def killed(folder: Path, point: int, do: Callable[[], object]) -> bool:
    """Do it in a child that ends at its `point`th operation below `folder`; whether it got there."""
    child = os.fork()
    if child == 0:
        left = itertools.count(point, -1)

        def watch(event: str, args: tuple[object, ...]) -> None:
            below = event.startswith(("open", "os.", "shutil.")) and str(folder) in str(args)
            if below and next(left) == 1:
                os._exit(9)

        sys.addaudithook(watch)
        do()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    state = trained(1)
    for step in (9, 10, 100):
        checkpoint.save(tmp_path, step, *state, {})
        checkpoint.keep(tmp_path, last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_carry_takes_moments_and_leaves_weights(tmp_path: Path) -> None:
    old, new = trained(3), trained(0)
    checkpoint.save(tmp_path, 3, *old, {})
    checkpoint.carry(tmp_path, *new)
    assert same((new[0], old[1]), (new[0], new[1])) is False  # other parameters: keyed apart
    steps = {float(new[1].state[p]["step"]) for p in new[0].parameters()}
    assert steps == {3.0}
    assert all(map(torch.equal, new[0].parameters(), trained(0)[0].parameters()))
    with pytest.raises(StageError, match="no checkpoint to carry"):
        checkpoint.carry(tmp_path / "none", *new)


def test_another_architectures_is_named_and_what_to_do(tmp_path: Path) -> None:
    """Another's names, and another's shapes."""
    checkpoint.save(tmp_path, 3, *trained(1), {})
    for name, vocabulary in (("phi1-tiny", 64), ("snowcoder-tiny", 80)):
        model = architectures.build(name, vocabulary, 16, seed=0)
        given = (tmp_path, model, adamw(model, CONFIG))
        with pytest.raises(
            StageError, match=r"step-00000003: another architecture's: .*begin anew"
        ):
            checkpoint.load_latest(*given)
        with pytest.raises(StageError, match=r"step-00000003: another architecture's: .*: reset"):
            checkpoint.carry(*given)


def test_published_folder_loads_in_plain_transformers(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer.json")
    model = architectures.build("snowcoder-tiny", tokenizer.get_vocab_size(), 64, seed=0)
    card = {"model": "snowcoder-tiny", "phase": "phase1", "step": 3, "infill": True}
    folder = tmp_path / "model"
    for _ in range(2):
        checkpoint.publish(model, folder, tmp_path / "tokenizer.json", card)
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    auto = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = auto(TEXTS[1])["input_ids"]
    assert ids == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(TEXTS[1]).ids
    assert auto.decode(ids) == TEXTS[1]
    with torch.inference_mode():
        ours, found = (m(torch.tensor([ids])).logits for m in (model, theirs))
    assert torch.equal(ours, found)
    assert (auto.eos_token, auto.pad_token) == ("<|endoftext|>", "<|fim_pad|>")
    assert (auto.model_max_length, theirs.generation_config.eos_token_id) == (64, 0)
    assert json.loads((folder / "icefloe.json").read_text()) == card
    names = {p.name for p in folder.iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json"} <= names
