"""`/v1/chat/completions` by a folder's template, and Mistral's `/v1/fim/completions`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipeline.model.engine import load
from serve.app import api
from serve.state import State
from tests.serve.asking import chunks, client_of, refused
from tests.tiny import tiny_model_folder

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|repo_name|>{{ m.role }}\n{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|repo_name|>assistant\n{% endif %}"
)
SAID = {"messages": [{"role": "user", "content": "add"}], "max_tokens": 6, "seed": 1}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module", params=["chat_template.jinja", "tokenizer_config.json"])
def chatting(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[TestClient]:
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"))
    file = folder / request.param
    if file.suffix == ".json":
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))
    else:
        file.write_text(TEMPLATE)
    engine = load(folder, threads=1)
    with client_of(api(State({"tiny": engine}))) as client:
        yield client
    engine.close()


def test_a_conversation_is_laid_out_by_the_template(chatting: TestClient) -> None:
    answer = chatting.post(CHAT, json=SAID).json()
    (choice,) = answer["choices"]
    assert (answer["object"], choice["message"]["role"]) == ("chat.completion", "assistant")
    prompt = "<|repo_name|>user\nadd<|endoftext|><|repo_name|>assistant\n"
    plain = chatting.post("/v1/completions", json={"prompt": prompt, "max_tokens": 6, "seed": 1})
    assert choice["message"]["content"] == plain.json()["choices"][0]["text"]
    assert answer["usage"]["prompt_tokens"] == plain.json()["usage"]["prompt_tokens"]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "dd"}]
    same = SAID | {"messages": [{"role": "user", "content": parts}]}
    assert chatting.post(CHAT, json=same).json()["choices"] == answer["choices"]


def test_a_chat_streams_deltas(chatting: TestClient) -> None:
    body = SAID | {"n": 2, "logprobs": True, "top_logprobs": 2}
    whole = chatting.post(CHAT, json=body).json()["choices"]
    more = {"stream": True, "stream_options": {"include_usage": True}}
    *told, counts = chunks(chatting.post(CHAT, json=body | more))
    assert counts["usage"]["completion_tokens"] > 0
    assert {c["object"] for c in told} == {"chat.completion.chunk"}
    for k, choice in enumerate(whole):
        parts = [c["choices"][0] for c in told if c["choices"][0]["index"] == k]
        assert parts[0]["delta"]["role"] == "assistant"
        assert "".join(p["delta"]["content"] for p in parts) == choice["message"]["content"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        rows = [row["token"] for p in parts for row in p["logprobs"]["content"]]
        assert rows == [row["token"] for row in choice["logprobs"]["content"]]


def test_what_a_chat_cannot_use_is_named(chatting: TestClient) -> None:
    answer = chatting.post(CHAT, json=SAID | {"tools": [], "tool_choice": "auto"})
    assert answer.headers["x-icefloe-ignored"] == "tools, tool_choice"
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]
    assert refused(chatting.post(CHAT, json=SAID | {"messages": image}), 422)["param"] == "messages"
    tool = [{"role": "tool", "content": "1"}]
    error = refused(chatting.post(CHAT, json=SAID | {"messages": tool}), 400)
    assert (error["param"], "no tools" in error["message"]) == ("messages", True)


def test_a_model_without_a_template_says_so(client: TestClient) -> None:
    error = refused(client.post(CHAT, json=SAID), 400)
    assert error["code"] == "no_chat_template"
    assert "/v1/completions" in error["message"]


@pytest.mark.parametrize("more", [{}, {"suffix": "\n    return x\n"}])
def test_fim_answers_with_a_message(client: TestClient, more: dict[str, Any]) -> None:
    body = {"prompt": "def add(", "max_tokens": 6, "temperature": 0, "min_tokens": 1, **more}
    answer = client.post("/v1/fim/completions", json=body)
    plain = client.post("/v1/completions", json=body)
    assert answer.headers["x-icefloe-ignored"] == "min_tokens"
    content = answer.json()["choices"][0]["message"]["content"]
    assert content == plain.json()["choices"][0]["text"]
    told = chunks(client.post("/v1/fim/completions", json=body | {"stream": True}))
    assert "".join(c["choices"][0]["delta"]["content"] for c in told) == content


def test_mistral_names_the_seed_its_own_way(client: TestClient) -> None:
    body = {"prompt": "def add(", "max_tokens": 12}
    texts = {
        client.post("/v1/fim/completions", json=body | seed).json()["choices"][0]["message"][
            "content"
        ]
        for seed in ({"random_seed": 5}, {"seed": 5}, {"seed": 5, "random_seed": 6})
    }
    assert len(texts) == 1


def test_a_folder_without_a_template_has_no_rendering(tmp_path: Path) -> None:
    from pipeline.model.chat import template

    assert template(tiny_model_folder(tmp_path)) is None
