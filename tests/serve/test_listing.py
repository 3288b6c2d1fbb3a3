"""What is told of the server and its models, and when it calls itself ready."""

from pathlib import Path

import pytest

from pipeline.core.errors import RecipeError
from serve.app import Args, Model, api, load
from serve.start import start
from serve.state import State
from tests.serve.asking import ANNOTATE, COMPLETE, client_of, refused
from tests.tiny import tiny_model_folder


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> State:
    """Two models side by side, no annotator."""
    at = tmp_path_factory.mktemp("several")
    alpha = tiny_model_folder(at / "alpha", infill=False)
    beta = tiny_model_folder(at / "beta", masks=2, seed=1)
    models = [Model(name="alpha", folder=str(alpha)), Model(name="b/eta", folder=str(beta))]
    return load(Args(models=models, threads=1))


def test_readiness_waits_for_the_models(state: State) -> None:
    partly = State()
    client = client_of(api(partly))
    assert client.get("/health").json() == {"status": "ok"}
    for answer in (
        client.get("/ready"),
        client.get("/v1/models"),
        client.post("/v1/completions", json=COMPLETE),
        client.post("/v1/annotate", json=ANNOTATE),
    ):
        assert "loading" in refused(answer, 503)["message"]
        assert answer.headers["retry-after"] == "1"
    partly.engines = state.engines
    assert client.get("/ready").json() == {"status": "ready", "models": ["tiny"]}


def test_readiness_ends_with_an_engine(tmp_path: Path) -> None:
    served = load(Args(models=[Model(folder=str(tiny_model_folder(tmp_path)))], threads=1))
    client = client_of(api(served))
    assert client.get("/ready").status_code == 200
    served.engines["tiny"].close()
    assert "'tiny'" in refused(client.get("/ready"), 503)["message"]
    assert served.broken
    assert b"icefloe_ready 0.0" in client.get("/metrics").content


def test_models_are_chosen_by_name(several: State) -> None:
    client = client_of(api(several))
    told = client.get("/v1/models").json()["data"]
    assert [m["id"] for m in told] == ["alpha", "b/eta"]
    assert client.get("/v1/models/b/eta").json() == told[1]
    refused(client.get("/v1/models/gamma"), 404)
    texts = {
        name: client.post("/v1/completions", json=COMPLETE | {"model": name, "temperature": 0})
        for name in (None, "alpha", "b/eta")
    }
    found = [a.json()["choices"][0]["text"] for a in texts.values()]
    assert found[0] == found[1] != found[2]
    assert texts[None].json()["model"] == "alpha"


def test_a_model_tells_how_to_infill_and_where_it_is_from(several: State, state: State) -> None:
    client = client_of(api(several))
    alpha, beta = client.get("/v1/models").json()["data"]
    assert alpha["infill"] is None
    mask = beta["infill"]["tokens"]["mask"]
    assert (beta["infill"]["layout"], mask["text"]) == ("CodeGen2", "<mask_1>")
    assert mask["id"] == several.engines["b/eta"].tokenizer.token_to_id("<mask_1>")
    (tiny,) = client_of(api(state)).get("/v1/models").json()["data"]
    assert tiny["infill"]["layout"] == "PSM"
    assert tiny["infill"]["tokens"]["prefix"] == {"text": "<|fim_prefix|>", "id": 1}
    expected = {"phase": "phase1", "step": 3, "tokens": 768, "data": "0" * 12, "max_model_len": 128}
    assert expected.items() <= tiny.items()
    assert (tiny["precision"], tiny["chat_template"]) == ("exact", False)


def test_a_chat_template_is_told(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    served = load(Args(models=[Model(folder=str(folder))], threads=1))
    assert served.facts["tiny"]["chat_template"] is True


def test_no_annotator_is_told_plainly(several: State) -> None:
    client = client_of(api(several))
    assert "no annotator" in refused(client.post("/v1/annotate", json=ANNOTATE), 404)["message"]
    assert client.get("/ready").status_code == 200


def test_models_have_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="two models are named 'a'"):
        Args(models=[Model(name="a", folder="x"), Model(name="a", folder="y")])


def test_two_models_whose_cards_have_one_name_are_refused(tmp_path: Path) -> None:
    folders = [str(tiny_model_folder(tmp_path / name)) for name in "ab"]
    with pytest.raises(RecipeError, match="two models are named 'tiny'"):
        load(Args(models=[Model(folder=folder) for folder in folders], threads=1))
    with pytest.raises(RecipeError, match="two models are named 'tiny'"):
        start(Args(models=[Model(folder=folder) for folder in folders]))


def test_a_port_that_is_none_is_named(tmp_path: Path) -> None:
    model = Args(models=[Model(folder=str(tiny_model_folder(tmp_path)))])
    with pytest.raises(RecipeError, match="70000 cannot be listened on"):
        start(model, port=70_000)
