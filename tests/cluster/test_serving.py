"""What `icefloe serve` serves: a run's release first, then phases and folders by the names given; what it
says when there is none."""

import json
from pathlib import Path

import pytest

from cluster.serving import announcement, arguments
from pipeline.core.errors import RecipeError
from pipeline.core.store import Store
from serve.app import Args, Model
from serve.start import names
from tests.tiny import tiny_annotator_folder, tiny_model_folder

KEYS = {"phase1": "1" * 12, "phase2": "2" * 12, "vocab": "3" * 12, "release": "4" * 12}
STAGES = {"phase1": "train", "phase2": "train", "vocab": "tokenizer", "release": "export"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run of four steps, as far as serving looks at it."""
    store = Store(str(tmp_path / "store"))
    told = {"steps": list(KEYS), "keys": KEYS, "started": "2026-01-01"}
    store.replace(json.dumps(told).encode(), "runs", "small", "run.json")
    for step in KEYS:
        make(store, step)
    return store


def make(store: Store, step: str) -> None:
    stage, key = STAGES[step], KEYS[step]
    folder = Path(store.uri) / stage / key
    folder.mkdir(parents=True)
    if stage in ("train", "export"):
        tiny_model_folder(folder / "model")
    if stage == "export":
        tiny_annotator_folder(folder / "annotator")
        card = folder / "model" / "icefloe.json"
        card.write_text(json.dumps(json.loads(card.read_text()) | {"name": "ours"}))
    pointer = {"stage": stage, "key": key}
    store.replace(json.dumps(pointer).encode(), "runs", "small", f"{step}.json")
    store.replace(json.dumps({"facts": {}}).encode(), stage, key, "manifest.json")


def forget(store: Store, step: str) -> None:
    (Path(store.uri) / "runs" / "small" / f"{step}.json").unlink()


def test_a_release_comes_first_and_brings_its_annotator(store: Store, tmp_path: Path) -> None:
    other = tiny_model_folder(tmp_path / "other")
    asked = ["alpha=phase1", "phase2", f"mine={other}"]
    args = arguments(store, "small", asked, None, precision="int8", threads=2)
    assert names(args) == ["ours", "alpha", "phase2", "mine"]
    assert args.models[1].folder.endswith(f"train/{KEYS['phase1']}/model")
    assert args.annotator
    assert args.annotator.endswith("annotator")
    assert {m.precision for m in args.models} == {"int8"}


def test_a_phase_or_a_folder_is_served_without_a_release(store: Store, tmp_path: Path) -> None:
    forget(store, "release")
    args = arguments(store, None, ["phase2"], None)
    assert (names(args), args.annotator) == (["phase2"], None)
    other = tiny_model_folder(tmp_path / "holds" / "model")
    nowhere = Store(str(tmp_path / "nowhere"))
    args = arguments(nowhere, None, [str(other.parent)], None)
    assert (names(args), args.models[0].folder) == (["tiny"], str(other))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("a=phase3", "did you mean"),
        ("vocab", "makes no model; name a train step"),
        ("=phase1", "NAME=STEP"),
        ("a=no/such/folder", "no folder no/such/folder"),
    ],
)
def test_what_cannot_be_served_is_named(store: Store, asked: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        arguments(store, "small", [asked], None)
    with pytest.raises(RecipeError, match="two models are named 'a'"):
        arguments(store, "small", ["a=phase1", "a=phase2"], None)


def test_a_run_without_a_release_says_what_to_serve(store: Store) -> None:
    forget(store, "release")
    with pytest.raises(RecipeError, match="--model phase2"):
        arguments(store, None, [], None)


def test_the_announcement_has_a_command_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ICEFLOE_API_KEY", raising=False)
    args = Args(models=[Model(folder="x")])
    said = "\n".join(announcement(args, ["ours"], "http://127.0.0.1:8000"))
    assert '"model": "ours"' in said
    assert "authorization" not in said
    said = "\n".join(announcement(args.model_copy(update={"keys": "/k"}), ["ours"], "http://h"))
    assert "Bearer $KEY" in said
    assert "/k" in said
