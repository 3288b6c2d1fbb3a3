"""The annotator's routes: what they tell, the same numbers in three shapes, real clients of two other
servers, corpus percentiles, judges of every kind."""

import json
import math
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from pipeline.model.forest import train_forest
from pipeline.model.settings import ForestConfig
from serve.app import Args, Model, api, load
from serve.state import State
from tests.corpus import bare, documented
from tests.serve.asking import client_of, refused
from tests.serve.live import serving
from tests.tiny import tiny_annotator_folder, tiny_model_folder

LONG = "y = [1, 2, 3]\n" * 200
TEXTS = ["x = 1\n", "", LONG, "naïve = '🧊'\n" * 4, *(f"n = {i}\n" for i in range(16))]


def annotated(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/annotate", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_annotations_come_in_order_with_what_was_sent(client: TestClient, state: State) -> None:
    files = [{"text": t, "path": f"{i}.py"} for i, t in enumerate(TEXTS)]
    answer = annotated(client, files=files)
    assert answer["model"] == "tiny-annotator"
    assert [d["index"] for d in answer["data"]] == list(range(20))
    assert (answer["data"][2]["path"], answer["data"][2]["language"]) == ("2.py", None)
    expected = [s.score for s in state.judged().score(TEXTS)]
    assert [d["score"] for d in answer["data"]] == pytest.approx(expected, abs=1e-6)
    for told in answer["data"]:
        assert sum(told["probs"].values()) == pytest.approx(1)
        assert told["probs"]["LABEL_1"] == told["score"]
        assert (told["percentile"], told["language_percentile"]) == (None, None)


def test_windows_have_places_and_the_rest_is_counted(client: TestClient) -> None:
    data = annotated(client, files=[{"text": t} for t in TEXTS])["data"]
    for told, text in zip(data, TEXTS, strict=True):
        windows = told["windows"]
        assert (windows[0]["start"], windows[-1]["end"]) == (0, len(text))
        inside = {k for w in windows for k in range(w["start"], w["end"])}
        assert (told["seen"], told["unseen"]) == (len(inside), len(text) - len(inside))
        assert told["truncated"] == (told["unseen"] > 0)
        mean = sum(w["score"] for w in windows) / len(windows)
        assert told["score"] == pytest.approx(mean)
    assert (len(data[2]["windows"]), data[2]["truncated"]) == (3, True)


def test_the_three_shapes_agree(client: TestClient) -> None:
    data = annotated(client, files=[{"text": t} for t in TEXTS])["data"]
    rows = client.post("/predict", json={"inputs": [[t] for t in TEXTS]}).json()
    raw = client.post("/predict", json={"inputs": [[t] for t in TEXTS], "raw_scores": True}).json()
    answer = client.post("/classify", json={"input": TEXTS}).json()
    for told, row, logits, named in zip(data, rows, raw, answer["data"], strict=True):
        assert {p["label"]: p["score"] for p in row} == pytest.approx(told["probs"], abs=1e-6)
        assert row[0]["score"] >= row[1]["score"]
        back = [math.exp(p["score"]) for p in logits]
        assert back == pytest.approx([p["score"] for p in row], abs=1e-6)
        assert named["probs"] == pytest.approx([*told["probs"].values()], abs=1e-6)
        assert (named["label"], named["num_classes"]) == (row[0]["label"], 2)
    tokens = answer["usage"]["prompt_tokens"]
    assert answer["usage"]["total_tokens"] == tokens > 20
    assert list(answer) == ["id", "object", "created", "model", "data", "usage"]


def test_predict_takes_what_its_server_takes(client: TestClient) -> None:
    single = client.post("/predict", json={"inputs": "x = 1"}).json()
    assert single == client.post("/predict", json={"inputs": ["x = 1"]}).json()
    assert [single] == client.post("/predict", json={"inputs": [["x = 1"]]}).json()
    assert client.post("/predict", json={"inputs": ""}).status_code == 200
    more = {"inputs": "x", "truncate": True, "truncation_direction": "Left"}
    answer = client.post("/predict", json=more)
    assert answer.headers["x-icefloe-ignored"] == "truncation_direction"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": ["a", "b"]}, 422, "Validation"),
        ({"inputs": [["a", "b"], ["c"]]}, 422, "Validation"),
        ({"inputs": [["a"]] * 65}, 413, "Validation"),
        ({"inputs": []}, 422, "Validation"),
        ({"inputs": 3}, 422, "Validation"),
        ({"inputs": LONG, "truncate": False}, 422, "Tokenizer"),
        ({"inputs": "a", "model": "other"}, 404, "Validation"),
    ],
)
def test_predicts_refusals_have_a_type_too(
    client: TestClient, body: dict[str, Any], status: int, kind: str
) -> None:
    answer = client.post("/predict", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert list(answer.json()["error"]) == ["message", "type", "param", "code"]
    assert "error_type" not in client.post("/v1/annotate", json={}).json()


def test_a_client_of_text_embeddings_inference(state: State, client: TestClient) -> None:
    text = "def f(x):\n    return x\n"
    best = client.post("/predict", json={"inputs": text}).json()[0]
    with serving(api(state)) as url:
        for address in (url, f"{url}/predict"):
            # The client takes the first of what it gets, which here is the likeliest class.
            told = InferenceClient(model=address).text_classification(text)
            assert (told.label, told.score) == (best["label"], pytest.approx(best["score"]))
        with pytest.raises(HfHubHTTPError, match="a pair of texts is no file") as failure:
            InferenceClient(model=url).text_classification(["a", "b"])  # type: ignore[arg-type]
    assert failure.value.response.json()["error_type"] == "Validation"


def test_a_client_of_vllm(state: State) -> None:
    """As its examples ask: requests' json and accept headers, one text or several."""
    with serving(api(state)) as url:
        headers = {"accept": "application/json", "Content-Type": "application/json"}
        one = httpx.post(f"{url}/classify", headers=headers, json={"input": "x = 1"}).json()
        body = {"model": "tiny-annotator", "input": ["x = 1", "y = 2"]}
        two = httpx.post(f"{url}/classify", headers=headers, json=body).json()
    assert one["data"][0]["probs"] == pytest.approx(two["data"][0]["probs"], abs=1e-6)
    assert [d["index"] for d in two["data"]] == [0, 1]
    assert two["usage"]["completion_tokens"] == 0


def test_the_version_is_told(client: TestClient) -> None:
    told = client.get("/v1/annotator").json()
    assert told.pop("scores") is None
    assert told == annotated(client, files=[{"text": "x"}])["annotator"]
    assert (told["name"], told["kind"], told["window"]) == ("tiny-annotator", "encoder", 32)
    assert (told["auc"], told["labels"]) == (0.5, ["LABEL_0", "LABEL_1"])


def test_percentiles_are_against_the_corpus(tmp_path: Path) -> None:
    folder = tiny_annotator_folder(tmp_path / "annotator")
    row = {"documents": 100, "unscored": 0, "counts": [50, 50], "scores": [0.0, 1.0]}
    scores = {
        "range": [0, 1],
        "all": row | {"below": [0, 1]},
        "languages": {"Go": row | {"below": [0.5, 0.5]}},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    models = [Model(folder=str(tiny_model_folder(tmp_path / "model")))]
    client = client_of(api(load(Args(models=models, annotator=str(folder), threads=1))))
    files = [{"text": "x", "path": "a/b.go"}, {"text": "x", "language": "go"}, {"text": "x"}]
    data = annotated(client, files=files)["data"]
    for told, within in zip(data, (0.5, 0.5, None), strict=True):
        assert told["percentile"] == pytest.approx(told["score"])
        assert told["language_percentile"] == within
    told = client.get("/v1/annotator").json()["scores"]
    assert told["languages"]["Go"] == {"documents": 100, "unscored": 0, "counts": [50, 50]}


def test_a_regression_has_a_score_and_no_classes(tmp_path: Path) -> None:
    folder = tiny_annotator_folder(tmp_path / "annotator", labels=1)
    models = [Model(folder=str(tiny_model_folder(tmp_path / "model")))]
    client = client_of(api(load(Args(models=models, annotator=str(folder), threads=1))))
    (told,) = annotated(client, files=[{"text": "x = 1"}])["data"]
    assert told["probs"] is None
    plain = {"score": pytest.approx(told["score"]), "label": "quality"}
    assert client.post("/predict", json={"inputs": "x = 1"}).json() == [plain]
    (named,) = client.post("/classify", json={"input": "x = 1"}).json()["data"]
    assert (named["probs"], named["num_classes"]) == ([plain["score"]], 1)


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
    args = Args(models=[Model(folder=str(model))], annotator=str(tmp_path / "forest"), threads=1)
    state = load(args)
    answer = annotated(client_of(api(state)), files=[{"text": t} for t in texts])
    assert (answer["model"], answer["annotator"]["kind"]) == ("forest-model", "forest")
    for told, text in zip(answer["data"], texts, strict=True):
        assert told["score"] == pytest.approx(state.judged().score([text])[0].score, abs=1e-6)
        (window,) = told["windows"]
        assert (window["score"], window["end"]) == (told["score"], len(text))
        assert (told["probs"], told["truncated"]) == (None, told["unseen"] > 0)


def test_a_file_that_takes_too_long_is_given_up(client: TestClient, state: State) -> None:
    body = {"files": [{"text": LONG}]}
    headers = {"x-request-timeout-seconds": "0.00001"}
    answer = client.post("/v1/annotate", json=body, headers=headers)
    assert refused(answer, 504)["code"] == "timeout"
    assert state.judging.waiting == 0
