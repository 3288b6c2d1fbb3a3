"""`/tokenize` and `/detokenize`: what a prompt is read as, by both servers' names."""

from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from serve.state import State
from tests.serve.asking import refused

TEXT = "<|fim_prefix|>def greet():\n    return 'Grüße 🧊'"


def test_tokens_are_those_of_a_prompt(client: TestClient, state: State) -> None:
    ids = state.engine()[1].prompt(TEXT)
    for field in ("prompt", "content"):
        answer = client.post("/tokenize", json={field: TEXT, "model": "tiny"}).json()
        assert answer == {"count": len(ids), "max_model_len": 128, "tokens": ids}
    body = {"content": TEXT, "with_pieces": True, "return_token_strs": True}
    answer = client.post("/tokenize", json=body).json()
    assert [t["id"] for t in answer["tokens"]] == ids
    pieces = [t["piece"] for t in answer["tokens"]]
    assert pieces[0] == answer["token_strs"][0] == "<|fim_prefix|>"
    assert [0xF0] in pieces


@given(text=st.text())
def test_there_and_back(client: TestClient, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    ids = client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
    back = client.post("/detokenize", json={"tokens": ids["tokens"]}).json()
    assert back == {"prompt": text, "content": text}


def test_what_is_no_token_is_refused_by_name(client: TestClient) -> None:
    for token in (-1, 10**9):
        answer = client.post("/detokenize", json={"tokens": [token]})
        assert refused(answer, 400)["param"] == "tokens"
    assert refused(client.post("/tokenize", json={}), 422)["param"] == "prompt"
    unknown = client.post("/tokenize", json={"prompt": "", "model": "other"})
    assert refused(unknown, 404)["param"] == "model"
