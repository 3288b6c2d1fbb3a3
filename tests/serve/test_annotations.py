"""`/v1/annotate`: order, windows, judges of every kind."""

import random
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipeline.model.forest import train_forest
from pipeline.model.settings import ForestConfig
from serve.app import Args, Model, api, load
from serve.state import State
from tests.corpus import bare, documented
from tests.tiny import tiny_model_folder


def test_annotations_come_in_order_with_what_was_sent(client: TestClient, state: State) -> None:
    texts = ["x = 1\n", "", "y = [1, 2, 3]\n" * 200, *(f"n = {i}\n" for i in range(17))]
    files = [{"text": t, "path": f"{i}.py"} for i, t in enumerate(texts)]
    answer = client.post("/v1/annotate", json={"files": files}).json()
    assert answer["model"] == "tiny-annotator"
    assert [d["index"] for d in answer["data"]] == list(range(20))
    assert answer["data"][2]["path"] == "2.py"
    assert "language" not in answer["data"][2]
    assert (len(answer["data"][2]["windows"]), answer["data"][2]["truncated"]) == (3, True)
    assert state.judge is not None
    expected = [s.score for s in state.judge.score(texts)]
    assert [d["score"] for d in answer["data"]] == pytest.approx(expected, abs=1e-6)


def test_a_forest_answers_like_an_annotator(tmp_path: Path) -> None:
    model, rng = tiny_model_folder(tmp_path / "model"), random.Random(0)
    texts = [maker(rng) for maker in (documented, bare) for _ in range(12)]
    train_forest(
        texts,
        [5.0] * 12 + [0.0] * 12,
        [f"r{k % 4}" for k in range(24)],
        ["Python"] * 24,
        str(model),
        ForestConfig(trees=8, window=32, leaf=1, held_out=0.25, threads=1),
        tmp_path / "forest",
    )
    state = load(
        Args(models=[Model(folder=str(model))], annotator=str(tmp_path / "forest"), threads=1)
    )
    assert state.judge is not None
    answer = TestClient(api(state)).post(
        "/v1/annotate", json={"files": [{"text": t} for t in texts]}
    )
    assert answer.json()["model"] == "forest-model"
    expected = [s.score for k in range(0, 24, 8) for s in state.judge.score(texts[k : k + 8])]
    assert [d["score"] for d in answer.json()["data"]] == expected
    assert [d["windows"] for d in answer.json()["data"]] == [[s] for s in expected]
