"""What guards a run does in two processes what it does in one, the model whole or sharded: held-out bits
per byte, steps left out as spikes, the stop at a broken loss. Both decide alike, and none waits for ever.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from pipeline.core.errors import StageError
from pipeline.model import architectures, bits, checkpoint, shards
from pipeline.model.fit import fit
from pipeline.model.world import World
from tests.gloo import in_two
from tests.packed import CONFIG, LENGTH, VOCABULARY, batches
from tests.tiny import TEXTS, tiny_tokenizer

KINDS = ("none", "grad", "full")
TEXT = {"Python": [TEXTS[0], TEXTS[1] * 5, TEXTS[3]], "JavaScript": [TEXTS[4]], "Empty": [""]}
GUARDED = replace(
    CONFIG,
    skip=0.5,
    skip_window=4,
    heldout_every=5,
    checkpoint_every=5,
    keep="all",
    micro=2 * LENGTH,
)
"""So low a limit that ordinary steps are left out; steps 5, 10 and 12 are measured and then kept."""
STOPPED, BROKEN = 7, 4

Lines = list[dict[str, Any]]


def trained(world: World, root: Path, kind: str, name: str, **given: Any) -> dict[str, Any]:
    """A guarded run; each process writes down the lines it was told."""
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
    held = bits.slices(TEXT, Tokenizer.from_file(str(root / "tokenizer.json")), LENGTH)
    cfg = replace(GUARDED, sharding=kind)
    settings = {"folder": root / name, "world": world, "slices": held} | given
    return fit(model, batches(root / "data"), cfg, **settings)


def telling(root: Path, name: str, world: World) -> Any:
    """An `on_step` that writes this process's lines to a file of its own."""

    def tell(line: dict[str, Any]) -> None:
        with open(root / f"{name} {world.rank}", "a") as f:
            f.write(json.dumps(line) + "\n")

    return tell


def stop(line: dict[str, Any]) -> None:
    if line["step"] == STOPPED:
        raise KeyboardInterrupt


def halted(world: World, root: Path, kind: str, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(world, root, kind, name, on_step=stop)


def breaking(world: World, root: Path, kind: str) -> str:
    """What this process says when only the other one's part of step BROKEN is no number."""
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
    parts = iter(range(1000))

    def spoil(layer: Any, given: Any, hidden: torch.Tensor) -> torch.Tensor:
        here = world.rank == 1 and next(parts) == BROKEN  # a part a step
        return hidden * float("nan") if here else hidden

    model.model.norm.register_forward_hook(spoil)
    cfg = replace(GUARDED, sharding=kind)
    fed = batches(root / "data")
    with pytest.raises(StageError) as caught:
        fit(model, fed, cfg, folder=root / f"broken {kind}", world=world)
    return str(caught.value)


def together(world: World, root: Path) -> None:
    """What each of two processes does, one scenario after another."""
    for kind in KINDS:
        trained(world, root, kind, kind, on_step=telling(root, kind, world))
        halted(world, root, kind, f"{kind} again")
        trained(world, root, kind, f"{kind} again")
        (root / f"broken {kind} {world.rank}").write_text(breaking(world, root, kind))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process and of two, whole and in halves."""
    folder = tmp_path_factory.mktemp("guards")
    tiny_tokenizer(folder / "tokenizer.json", VOCABULARY)
    trained(World(), folder, "none", "one")
    in_two(together, folder)
    return folder


def lines(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text().splitlines()]


def skipped(told: Lines) -> list[int]:
    return [line["step"] for line in told if line["skipped"]]


@pytest.mark.parametrize("kind", KINDS)
def test_two_leave_out_and_measure_what_one_does(root: Path, kind: str) -> None:
    one, two = lines(root / "one" / "metrics.jsonl"), lines(root / kind / "metrics.jsonl")
    assert skipped(two) == skipped(one) != []
    assert [x["loss"] for x in two] == pytest.approx([x["loss"] for x in one], rel=1e-4)
    held = [[(x["step"], x["heldout"]) for x in told if "heldout" in x] for told in (one, two)]
    assert [n for n, _ in held[0]] == [n for n, _ in held[1]] == [4, 9, 11]
    for (_, wanted), (_, got) in zip(*held, strict=True):
        assert got == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_decide_alike(root: Path, kind: str) -> None:
    of_each = (lines(root / f"{kind} {rank}") for rank in (0, 1))
    first, second = ([{**x, **dict.fromkeys(OWN)} for x in told] for told in of_each)
    assert first == second


OWN = ("tokens_per_s", "wait", "memory")
"""What a process says of itself."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_with_the_same_decisions(root: Path, kind: str) -> None:
    calm, rough = (lines(root / n / "metrics.jsonl") for n in (kind, f"{kind} again"))
    told = [[(x["loss"], x["skipped"], x.get("heldout")) for x in found] for found in (calm, rough)]
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_after_a_measurement_is_whole(root: Path, kind: str) -> None:
    for step in ("step-00000005", "step-00000010", "step-00000012"):
        one, two = (kept(root / name / "checkpoints" / step) for name in ("one", kind))
        assert {n: x.shape for n, x in one.items()} == {n: x.shape for n, x in two.items()}
        assert all(torch.allclose(x, two[n], atol=1e-4) for n, x in one.items())


def kept(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights and moments."""
    files = {kind: sorted(path.glob(f"{kind}*.safetensors")) for kind in ("model", "optimizer")}
    found = {kind: shards.whole(shards.read(paths)) for kind, paths in files.items()}
    return {f"{kind} {n}": x for kind, tensors in found.items() for n, x in tensors.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_loss_of_one_stops_both_and_names_the_batch(root: Path, kind: str) -> None:
    said = [(root / f"broken {kind} {rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert said[0].startswith(f"train, step {BROKEN}: loss is nan")
    wanted = batches(root / "data").pieces(BROKEN)["uid"].to_pylist()
    assert all(uid in said[0] for uid in wanted)
    assert len(lines(root / f"broken {kind}" / "metrics.jsonl")) == 3
    assert checkpoint.newest(root / f"broken {kind}" / "checkpoints") is None
