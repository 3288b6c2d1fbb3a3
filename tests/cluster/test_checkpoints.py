"""`icefloe export` writes any kept checkpoint, and says which there are when it cannot."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from cluster import cli, runs
from cluster.checkpoints import table, write
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.runner import Artifact
from pipeline.core.store import Store
from tests.corpus import repositories
from tests.pipeline.test_train import steps
from tests.running import recipe_file, run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("checkpoints")
    path = recipe_file(folder / "small.yaml", steps(repositories(folder / "source", 4)))
    run(path, folder / "store", until="phase2")
    return Store(str(folder / "store"))


def phase(store: Store, name: str = "phase1") -> Artifact:
    return runs.artifact(store, "small", name)


def test_the_command_writes_what_transformers_loads(store: Store, tmp_path: Path) -> None:
    args = ["export", "phase1", "--step", "3", "--to", str(tmp_path / "out"), "--store", store.uri]
    told = CliRunner().invoke(cli.cli, args, catch_exceptions=False)
    assert told.exit_code == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    published = AutoModelForCausalLM.from_pretrained(phase(store).folder / "model")
    last = write(phase(store), "phase1", None, tmp_path / "last")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "last")
    assert last["step"] == 7
    pairs = list(zip(*(m.parameters() for m in (model, published, again)), strict=True))
    assert all(torch.equal(b, c) for _, b, c in pairs)
    assert any(not torch.equal(a, b) for a, b, _ in pairs)


def test_the_table_counts_the_tokens_of_all_phases(store: Store) -> None:
    rows = table([(n, phase(store, n)) for n in ("phase1", "phase2")])
    assert [(r["phase"], r["step"]) for r in rows] == [
        *(("phase1", n) for n in (3, 6, 7)),
        ("phase2", 7),
    ]
    assert rows[3]["tokens"] == 2 * rows[2]["tokens"]
    assert all((Path(store.uri) / r["path"] / "state.json").exists() for r in rows)


def test_what_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no checkpoint after 4 steps; kept are .* 3, 6, 7"):
        write(phase(store), "phase1", 4, tmp_path / "out")
    with pytest.raises(RecipeError, match=r"vocab uses tokenizer, which leaves no checkpoints"):
        write(phase(store, "vocab"), "vocab", None, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RecipeError, match=r"mine is there and no model of ours"):
        write(phase(store), "phase1", 3, tmp_path / "mine")


def test_a_damaged_checkpoint_is_not_exported(store: Store, tmp_path: Path) -> None:
    (weights,) = phase(store).folder.glob("checkpoints/step-00000006/model*")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"!")
    try:
        with pytest.raises(StageError, match=r"missing or damaged; export another"):
            write(phase(store), "phase1", 6, tmp_path / "out")
    finally:
        weights.write_bytes(whole)
