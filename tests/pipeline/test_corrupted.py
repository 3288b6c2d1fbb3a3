"""Span corruption from tokenizer to model: trained on, told on the card, refused without its sentinels."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import runs
from pipeline.core.errors import RecipeError
from pipeline.core.store import Store
from tests.corpus import repositories
from tests.running import recipe_file, run, whole


def steps(folder: Path, masks: int) -> dict[str, Any]:
    every = whole(repositories(folder / "source", 3))
    kept = {name: every[name] for name in list(every)[: list(every).index("phase1") + 1]}
    kept["vocab"] |= {"masks": masks}
    kept["batches1"] = {"use": "pack", "files": "tokens", "length": 128, "budget": 2048}
    kept["batches1"] |= {"corrupt": 0.5, "spans": {"masks": 8, "longest": 8}}
    return kept


def test_a_corrupted_phase_trains_and_its_card_says_how_to_ask(tmp_path: Path) -> None:
    made = run(recipe_file(tmp_path / "r.yaml", steps(tmp_path, 8)), tmp_path / "store")
    facts = made["batches1"]["facts"]
    assert facts["corrupted"] > 0
    assert 1 < facts["masks"] <= 8
    model = runs.artifact(Store(str(tmp_path / "store")), "r", "phase1").folder / "model"
    card = json.loads((model / "icefloe.json").read_text())
    assert (card["infill"], card["spans"]) == (True, True)


def test_a_tokenizer_without_enough_masks_is_refused_before_training(tmp_path: Path) -> None:
    name = recipe_file(tmp_path / "r.yaml", steps(tmp_path, 0))
    with pytest.raises(RecipeError, match="the tokenizer has masks 0; raise that, or lower"):
        run(name, tmp_path / "store")
