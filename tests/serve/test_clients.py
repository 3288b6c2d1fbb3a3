"""Clients of other makers, unchanged, on a real server: `openai`, `lm_eval`, llama.vim's calls."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.model.engine import Engine, Sampling, load
from serve.app import api
from serve.state import State
from tests.serve.asking import BIAS, KEY, KEYS
from tests.serve.live import serving
from tests.serve.test_calls import filled
from tests.serve.test_chat import TEMPLATE
from tests.tiny import tiny_model_folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub; and the key where lm_eval looks for it."""
    for name, value in (("HF_HUB_OFFLINE", "1"), ("OPENAI_API_KEY", KEY)):
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), context=1024)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    engine = load(folder, threads=1, slots=2, queue=8)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with serving(api(State({"tiny": engine}), KEYS)) as url:
        yield url


@pytest.fixture
def openai(url: str) -> Iterator[Any]:
    """OpenAI's own client."""
    package = pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    with package.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_completes_and_streams(openai: Any, engine: Engine) -> None:
    body = {"model": "tiny", "prompt": "def add(", "max_tokens": 12, "seed": 3, "n": 2}
    whole = openai.completions.create(**body, logprobs=2)
    rows = [engine.prompt("def add(")] * 2
    expected = engine.complete(rows, Sampling(max_tokens=12, seed=3))
    assert [c.text for c in whole.choices] == [c.text for c in expected]
    for choice, c in zip(whole.choices, expected, strict=True):
        assert choice.logprobs.token_logprobs[: len(c.tokens)] == pytest.approx(
            c.logprobs, abs=1e-4
        )
    told = list(
        openai.completions.create(**body, stream=True, stream_options={"include_usage": True})
    )
    texts = [
        "".join(p.choices[0].text for p in told[:-1] if p.choices[0].index == k) for k in (0, 1)
    ]
    assert texts == [c.text for c in whole.choices]
    assert told[-1].usage.completion_tokens == whole.usage.completion_tokens
    infill = openai.completions.create(**body, suffix="\n    return a\n")
    assert infill.usage.prompt_tokens > whole.usage.prompt_tokens


def test_openai_chats_and_lists(openai: Any) -> None:
    (model,) = openai.models.list().data
    assert (model.id, model.max_model_len) == ("tiny", 1024)
    said: list[Any] = [{"role": "user", "content": "add"}]
    body = {"model": "tiny", "messages": said, "max_tokens": 8, "seed": 1}
    whole = openai.chat.completions.create(**body).choices[0].message.content
    told = openai.chat.completions.create(**body, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in told) == whole


def test_openai_understands_what_is_refused(openai: Any, url: str, engine: Engine) -> None:
    import openai as package

    create, body = openai.completions.create, {"model": "tiny", "prompt": "x", "max_tokens": 3}
    with pytest.raises(package.BadRequestError) as long:
        create(**body | {"prompt": "x" * 5000})
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(package.BadRequestError) as hot:
        create(**body, temperature=-1)
    assert hot.value.param == "temperature"
    with pytest.raises(package.UnprocessableEntityError, match="spam"):
        create(**body, extra_body={"spam": 1, "strict": True})
    with pytest.raises(package.NotFoundError) as unknown:
        create(**body | {"model": "gpt"})
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(package.AuthenticationError) as closed:
        openai.with_options(api_key="wrong").models.list()
    assert closed.value.code == "invalid_api_key"
    with filled(engine), pytest.raises(package.RateLimitError) as full:
        create(**body)
    assert (full.value.code, full.value.response.headers["retry-after"]) == ("queue_full", "1")
    late = {"x-request-timeout-seconds": "0.001"}
    with pytest.raises(package.InternalServerError) as slow:
        create(**body | {"max_tokens": 900, "logit_bias": BIAS}, extra_headers=late)
    assert (slow.value.status_code, slow.value.code) == (504, "timeout")


DOCS = [
    {"code": "def add(a, b):\n", "choices": ["    return a + b", "    print(i)"], "gold": 0},
    {"code": "for i in range(10):\n", "choices": ["    return xs", "    print(i, i)"], "gold": 1},
    {"code": "class Point:\n    def", "choices": [" __init__(self)", " ("], "gold": 0},
]


def _dataset(**_: Any) -> Any:
    from datasets import Dataset

    return {"test": Dataset.from_list(DOCS)}


def _task(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "task": f"tiny_{kind}",
        "custom_dataset": _dataset,
        "test_split": "test",
        "output_type": kind,
        "doc_to_text": "{{code}}",
        "target_delimiter": "",
        **more,
    }


CHOOSE = _task(
    "multiple_choice",
    doc_to_choice="{{choices}}",
    doc_to_target="gold",
    metric_list=[{"metric": "acc"}],
)
WRITE = _task(
    "generate_until",
    doc_to_target="{{choices[gold]}}",
    generation_kwargs={"until": ["\n\n"], "max_gen_toks": 8, "temperature": 0},
    metric_list=[{"metric": "exact_match"}],
)


def test_lm_eval_finds_what_the_engine_finds(url: str, folder: Path, engine: Engine) -> None:
    """Scores of choices to 1e-4, and the same text, through `local-completions`."""
    reason = "lm_eval is not installed: pip install 'lm_eval[api]'"
    lm_eval = pytest.importorskip("lm_eval", reason=reason)
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "tiny",
            "base_url": f"{url}/v1/completions",
            "tokenizer": str(folder),
            "tokenizer_backend": "huggingface",
            "max_length": 1024,
            "num_concurrent": 2,
        },
        batch_size=2,
        tasks=[CHOOSE, WRITE],
        task_manager=TaskManager(include_defaults=False),  # there are thousands of files of them
        bootstrap_iters=0,
        log_samples=True,
    )["samples"]
    for doc, sample in zip(DOCS, found["tiny_multiple_choice"], strict=True):
        pairs = [[doc["code"], choice] for choice in doc["choices"]]
        scores = [float(resp[0][0]) for resp in sample["resps"]]
        assert scores == pytest.approx([_score(engine, *pair) for pair in pairs], abs=1e-4)
    prompts = [engine.prompt(doc["code"]) for doc in DOCS]
    how = Sampling(max_tokens=8, temperature=0, stop=("\n\n",))
    texts = [c.text for c in engine.complete(prompts, how)]
    assert [sample["resps"][0][0] for sample in found["tiny_generate_until"]] == texts


def _score(engine: Engine, context: str, continuation: str) -> float:
    """log p(continuation | context), straight from the engine; a context's last blanks count as the
    continuation's, as lm_eval has it."""
    (logprobs,) = engine.logprobs([engine.prompt(context + continuation)])
    return float(logprobs[len(engine.prompt(context.rstrip())) - 1 :].sum())


def test_llama_vim_warms_up_and_infills(url: str) -> None:
    """The calls that llama.vim makes while one types, field by field."""
    headers = {"authorization": f"Bearer {KEY}"}
    extra = [{"text": "def add(a, b):\n    return a + b\n", "time": [1, 2], "filename": "a.py"}]
    timings = [f"timings/{a}_{b}" for a in ("prompt", "predicted") for b in VIM_TIMINGS]
    warm = {
        "input_prefix": "",
        "input_suffix": "",
        "input_extra": extra,
        "prompt": "",
        "n_predict": 0,
        "temperature": 0.0,
        "stream": False,
        "samplers": [],
        "cache_prompt": True,
        "t_max_prompt_ms": 1,
        "t_max_predict_ms": 1,
        "response_fields": [""],
    }
    ask = warm | {
        "input_prefix": "from a import add\n\n",
        "input_suffix": "\nprint(total)\n",
        "prompt": "total = ",
        "n_predict": 64,
        "n_indent": 0,
        "top_k": 40,
        "top_p": 0.99,
        "samplers": ["top_k", "top_p", "infill"],
        "t_max_prompt_ms": 60_000,
        "t_max_predict_ms": 1000,
        "response_fields": ["content", *timings, "truncated", "tokens_cached"],
    }
    with httpx.Client(base_url=url, headers=headers) as vim:
        assert vim.post("/infill", json=warm).json() == {}
        first = vim.post("/infill", json=ask)
        assert "samplers" in first.headers["x-icefloe-ignored"]
        shown = first.json()
        assert list(shown) == ask["response_fields"]
        assert (shown["truncated"], shown["timings/predicted_n"] > 0) == (False, True)
        ahead = ask | {"prompt": "total = " + shown["content"], "t_max_predict_ms": 250}
        assert vim.post("/infill", json=ahead).json()["timings/prompt_n"] >= 0


VIM_TIMINGS = ("n", "ms", "per_token_ms", "per_second")
