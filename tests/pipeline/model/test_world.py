"""Two processes train as one does, whole or sharded, and go on from one another's checkpoints.

Losses agree to 1e-4 of their value: the gradients are the same sums of float32 in another order, and
twelve steps of Adam let that grow; the seed, batch and rate of every step are the same.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM

from pipeline.core.errors import StageError
from pipeline.model import architectures, checkpoint
from pipeline.model.fit import fit
from pipeline.model.optimizer import adamw
from pipeline.model.world import World, exchange, host_group
from tests.gloo import in_two
from tests.packed import CONFIG, LENGTH, VOCABULARY, batches, train
from tests.tiny import tiny_tokenizer

KINDS = ("none", "grad", "full")
HALF = 7


def curve(folder: Path) -> list[float]:
    """The loss of every step, which are there once each."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [line["loss"] for line in lines]


def norms(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["grad_norm"] for line in lines]


def stop(record: dict[str, Any]) -> None:
    if record["step"] == HALF:
        raise KeyboardInterrupt


def halted(folder: Path, world: World | None = None, **settings: Any) -> None:
    """A run that ends after step HALF, with a checkpoint of step 6 behind it."""
    try:
        train(world, folder=folder, on_step=stop, **settings)
    except KeyboardInterrupt:
        return
    raise AssertionError("it was not stopped")


def together(world: World, root: Path) -> None:
    """What each of two processes does, one scenario after another."""
    for kind in KINDS:
        train(world, folder=root / kind, sharding=kind, micro=LENGTH)
        if kind != "grad":
            train(world, folder=root / f"1 to {kind}", sharding=kind)
            halted(root / f"{kind} to 1", world, sharding=kind)
    if shutil.which("g++"):
        train(world, folder=root / "compiled", sharding="full", compile="always")
        assert counters["stats"]["unique_graphs"] == 1
    mup(world, root / "mup 2")
    assert exchange(json.dumps("é" * world.rank), host_group(world)) == ['""', json.dumps("é")]
    (root / f"said {world.rank}").write_text(broken(world, root / "broken"))


def mup(world: World, folder: Path) -> None:
    """Crystal's weights are stored at other scales, so the gradient's norm is weighed. Rank 0
    publishes what all of them have."""
    model = architectures.build("crystal-tiny", VOCABULARY, LENGTH, seed=3)
    scales = architectures.scales("crystal-tiny", model)
    fed = batches(folder / "data")
    fit(model, fed, CONFIG, folder=folder, world=world, scales=scales)
    if world.rank == 0:
        newest = checkpoint.newest(folder / "checkpoints")
        assert newest is not None
        tiny_tokenizer(folder / "tokenizer.json")
        weights = checkpoint.weights(newest)
        checkpoint.publish(model, folder / "model", folder / "tokenizer.json", {}, weights)


def broken(world: World, folder: Path) -> str:
    """What this process hears when the other's part cannot be written."""
    model = architectures.build("snowcoder-tiny", 64, 16, seed=0)
    optimizer = adamw(model, CONFIG)
    parts = checkpoint.copied(model, optimizer, world, {})
    if world.rank == 1:
        parts = {f"no/such/folder/{name}": part for name, part in parts.items()}
    try:
        checkpoint.write(folder, world, host_group(world), 1, parts, {})
    except StageError as e:
        return str(e)
    return "nothing"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process and of two, whole and in halves."""
    folder = tmp_path_factory.mktemp("world")
    train(folder=folder / "one")
    mup(World(), folder / "mup 1")
    halted(folder / "half")
    for kind in KINDS:
        shutil.copytree(folder / "half", folder / f"1 to {kind}")
    in_two(together, folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_curve_of_one(root: Path, kind: str) -> None:
    assert curve(root / kind) == pytest.approx(curve(root / "one"), rel=1e-4)
    assert norms(root / kind) == pytest.approx(norms(root / "one"), rel=1e-3)


def test_compiled_shards_have_it_too(root: Path) -> None:
    """What several GPUs do by default."""
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    assert curve(root / "compiled") == pytest.approx(curve(root / "one"), rel=1e-4)


def test_norms_are_weighed_over_shards_too(root: Path) -> None:
    assert curve(root / "mup 2") == pytest.approx(curve(root / "mup 1"), rel=1e-4)
    assert norms(root / "mup 2") == pytest.approx(norms(root / "mup 1"), rel=1e-3)


@pytest.mark.parametrize("kind", ["none", "full"])
def test_two_processes_go_on_from_one(root: Path, kind: str) -> None:
    assert curve(root / f"1 to {kind}") == pytest.approx(curve(root / "one"), rel=1e-4)


@pytest.mark.parametrize("kind", ["none", "full"])
def test_one_process_goes_on_from_two(root: Path, kind: str) -> None:
    folder = root / f"{kind} to 1"
    assert len(curve(folder)) == HALF + 2  # lines come three at a time
    train(folder=folder)
    assert curve(folder) == pytest.approx(curve(root / "one"), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_process_writes_about_its_share(root: Path, kind: str) -> None:
    newest = checkpoint.newest(root / kind / "checkpoints")
    assert newest is not None
    sizes = [p.stat().st_size for p in sorted(newest.glob("model-0000?-of-00002.safetensors"))]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * min(sizes)


def test_a_process_that_cannot_write_is_named_and_nothing_is_left(root: Path) -> None:
    assert "no/such/folder" in (root / "said 1").read_text()
    assert (root / "said 0").read_text().startswith("process 1: ")
    assert checkpoint.newest(root / "broken") is None


def test_a_sharded_model_is_published_whole(root: Path) -> None:
    one, two = (
        AutoModelForCausalLM.from_pretrained(root / f"mup {n}" / "model", local_files_only=True)
        for n in (1, 2)
    )
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in pairs)
    assert not all(map(torch.equal, *zip(*pairs, strict=True)))  # each from its own checkpoint
    newest = checkpoint.newest(root / "mup 2" / "checkpoints")
    assert newest is not None
    stored = checkpoint.weights(newest)
    assert all(torch.equal(stored[n], p) for n, p in two.named_parameters())
