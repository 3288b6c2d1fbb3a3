"""The loop learns, stops on a broken loss, and goes on after kill -9 as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.core.errors import RecipeError, StageError
from pipeline.model import architectures
from pipeline.model.bits import IGNORED
from pipeline.model.fit import fit
from pipeline.model.objective import Objective
from pipeline.model.optimizer import adamw
from pipeline.model.schedules import Schedule
from pipeline.model.world import World
from tests.packed import CONFIG, LENGTH, VOCABULARY, batches, train

ROOT = Path(__file__).parents[3]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def final(folder: Path) -> dict[str, bytes]:
    """The bytes of the newest checkpoint's weights and moments."""
    newest = max((folder / "checkpoints").iterdir())
    return {p.name: p.read_bytes() for p in newest.glob("*.safetensors")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of 12 steps, never disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    train(folder=folder)
    return folder


def test_it_learns_and_accounts_for_every_step(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    fed = batches(tmp_path / "data")
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
    summary = fit(model, fed, CONFIG, folder=tmp_path / "out", on_step=seen.append)
    lines = metrics(tmp_path / "out")
    assert lines == seen
    assert [line["step"] for line in lines] == list(range(fed.steps))
    assert list(lines[0]) == [
        *("step", "loss", "lr", "grad_norm", "tokens", "skipped"),
        *("tokens_per_s", "wait", "memory"),
    ]
    assert lines[-1]["tokens"] == sum(map(fed.tokens, range(fed.steps))) == summary["tokens"]
    assert summary["loss_first"] == lines[0]["loss"] == pytest.approx(5.77, abs=0.1)  # ln 320
    assert summary["loss_last"] == lines[-1]["loss"]
    first, last = (sum(line["loss"] for line in part) / 5 for part in (lines[:5], lines[-5:]))
    assert last < first - 0.2
    assert (summary["steps"], lines[1]["lr"]) == (fed.steps, CONFIG.schedule.peak)
    left = {"metrics.jsonl", "checkpoints", "checkpoints.json"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == left
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == CONFIG.keep


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
    fed = batches(tmp_path)
    ids, labels = (torch.from_numpy(x) for x in fed.batch(fed.steps - 1)[:2])
    labels[0, 20:] = IGNORED
    ours = Objective(model)(ids, labels) / (labels[:, 1:] != IGNORED).sum()
    torch.testing.assert_close(ours, model(ids, labels=labels).loss)


def test_same_seed_same_bytes(reference: Path, tmp_path: Path) -> None:
    train(folder=tmp_path)
    assert final(tmp_path) == final(reference)


def test_a_stopped_run_goes_on_exactly(reference: Path, tmp_path: Path) -> None:
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, batches(tmp_path / "data"), CONFIG, folder=tmp_path, on_step=stop)
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 9, "lo')  # torn by the kill
    assert train(folder=tmp_path)["steps"] == len(metrics(tmp_path))
    assert final(tmp_path) == final(reference)
    assert [x["loss"] for x in metrics(tmp_path)] == [x["loss"] for x in metrics(reference)]


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(reference: Path, tmp_path: Path) -> None:
    train(folder=tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir()) / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    train(folder=tmp_path)
    assert final(tmp_path) == final(reference)
    assert [x["step"] for x in metrics(tmp_path)] == [x["step"] for x in metrics(reference)]


def test_a_finished_run_is_not_run_again(reference: Path) -> None:
    before = final(reference)
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=99)
    lines = metrics(reference)
    summary = fit(model, batches(reference / "data"), CONFIG, folder=reference)
    assert (summary["loss_last"], metrics(reference)) == (lines[-1]["loss"], lines)
    assert final(reference) == before


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing(tmp_path: Path) -> None:
    """Killed at a random step, then while a checkpoint is being written; then left alone."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    undisturbed = training(calm)
    step = random.Random(str(tmp_path)).randint(1, 20)
    kill(training(rough), lambda: lines_in(rough) >= step)
    assert 0 < lines_in(rough) < 35
    kill(training(rough), lambda: any((rough / "checkpoints").glob(".half-*")))
    assert training(rough).wait() == undisturbed.wait() == 0
    assert final(rough) == final(calm)
    assert [x["step"] for x in metrics(rough)] == [x["step"] for x in metrics(calm)]


def training(folder: Path) -> subprocess.Popen[bytes]:
    """A process that trains some 40 steps on two threads, with a checkpoint every three."""
    code = (
        "import pathlib, sys, tests.packed as p; p.train(folder=pathlib.Path(sys.argv[1]), "
        "documents=130, threads=2, checkpoint_every=3, log_every=1)"
    )
    # Threads that spin while they wait take seconds for a step when others have the cores.
    env = os.environ | {"GOMP_SPINCOUNT": "1000"}
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, env=env)


def kill(process: subprocess.Popen[bytes], now: Callable[[], bool]) -> None:
    """Kill -9 it as soon as `now`."""
    while process.poll() is None and not now():
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def lines_in(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_broken_loss_stops_and_names_the_documents(tmp_path: Path) -> None:
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
    fed = batches(tmp_path / "data")

    def poison(record: dict[str, Any]) -> None:
        if record["step"] == 2:
            model.model.norm.weight.data.fill_(float("inf"))

    with pytest.raises(
        StageError, match=r"train, step 3: loss is nan.*show train --batch 3"
    ) as caught:
        fit(model, fed, CONFIG, folder=tmp_path / "out", on_step=poison)
    assert all(uid in str(caught.value) for uid in fed.pieces(3)["uid"].to_pylist())
    assert len(metrics(tmp_path / "out")) == 3


def test_the_forward_pass_can_be_cut_smaller(reference: Path, tmp_path: Path) -> None:
    train(folder=tmp_path, micro=2 * LENGTH)
    pairs = zip(metrics(tmp_path), metrics(reference), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-4) for a, b in pairs)


def test_vectors_do_not_decay(tmp_path: Path) -> None:
    model = architectures.build("snowcoder-tiny", 64, 16, seed=0)
    decayed, spared = adamw(model, CONFIG).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert len(spared["params"]) == 2 * 4 + 1  # the norms


def test_the_optimizer_is_reset_or_carried(reference: Path, tmp_path: Path) -> None:
    fed = batches(tmp_path / "data")
    losses = {}
    for kind in ("reset", "carry"):
        model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
        cfg = replace(CONFIG, optimizer=kind)
        losses[kind] = fit(model, fed, cfg, folder=tmp_path / kind, before=reference)
    assert losses["reset"]["loss_first"] == losses["carry"]["loss_first"]
    assert losses["reset"]["loss_last"] != losses["carry"]["loss_last"]
    with pytest.raises(RecipeError, match="no phase before"):
        train(folder=tmp_path / "alone", optimizer="carry")


def test_dropout_and_other_families_resume_exactly_too(tmp_path: Path) -> None:
    shape = {"vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": 32}
    cfg = GPT2Config(**shape, n_layer=1, n_head=1, resid_pdrop=0.1, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(cfg)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    fed = batches(tmp_path / "data")

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 7:
            raise KeyboardInterrupt

    fit(model, fed, CONFIG, folder=tmp_path / "calm")
    model.load_state_dict(weights)
    with pytest.raises(KeyboardInterrupt):
        fit(model, fed, CONFIG, folder=tmp_path / "rough", on_step=stop)
    fit(model, fed, CONFIG, folder=tmp_path / "rough")
    assert final(tmp_path / "rough") == final(tmp_path / "calm")


def test_the_process_keeps_its_threads_and_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train(folder=tmp_path, threads=threads + 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    fed = batches(tmp_path / "data")
    with pytest.raises(RecipeError, match="batch is 4: not a multiple of 3 processes"):
        fit(None, fed, CONFIG, folder=tmp_path, world=World(size=3))
    with pytest.raises(RecipeError, match="warmup is 50, but the phase has"):
        fit(None, fed, replace(CONFIG, schedule=Schedule(warmup=50)), folder=tmp_path)
    fed.steps = 0
    with pytest.raises(RecipeError, match="more sequences than were packed"):
        fit(None, fed, CONFIG, folder=tmp_path)
