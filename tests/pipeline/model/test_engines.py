"""What every engine says of the same model: transformers' own answers, piece by piece, and one
behaviour of queues, cancelling, stop strings, scores and refusals."""

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from pipeline.core.schema import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, SPECIALS
from pipeline.model.engine import Call, Engine, Full, Load, Piece, Sampling, load
from tests.pipeline.model.asking import stream, tokens
from tests.tiny import tiny_model_folder

HAS_VLLM = importlib.util.find_spec("vllm") is not None
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = [
    "icefloe",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed (pip install vllm)"),
            pytest.mark.slow,
        ],
    ),
]
GREEDY = Sampling(max_tokens=24, temperature=0)
LONG = Sampling(
    max_tokens=1000, temperature=0, logit_bias=dict.fromkeys(range(len(SPECIALS)), -100.0)
)
"""Writes until the context is full."""
WARM = Sampling(max_tokens=12, temperature=1.5, seed=7)
PROMPTS = ("def add(a, b):", "for", "class Point:\n    def __init__(self, x, y):\n", "x")
CLOSE = 1e-3 if DEVICE == "cpu" else 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"), heads=1)


@pytest.fixture(scope="module")
def model(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    engine = load(folder, kind=request.param, device=DEVICE, slots=2, queue=2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def prompts(engine: Engine) -> list[list[int]]:
    return [engine.prompt(p) for p in PROMPTS]


def text(pieces: list[Piece]) -> str:
    return "".join(p.text for p in pieces)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@torch.inference_mode()
def scores(model: LlamaForCausalLM, ids: list[int]) -> np.ndarray:
    """log p(. | tokens up to each), (n, V)."""
    return model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()


@torch.inference_mode()
def greedy(
    model: LlamaForCausalLM,
    ids: list[int],
    count: int,
    change: Callable[[torch.Tensor, list[int]], torch.Tensor] = lambda logits, _: logits,
) -> list[int]:
    """The likeliest tokens one at a time, each from the whole text so far."""
    new: list[int] = []
    while len(new) < count:
        logits = model(torch.tensor([ids + new])).logits[0, -1]
        token = int(change(logits, new).argmax())
        if token < len(SPECIALS):
            break
        new.append(token)
    return new


def test_greedy_is_what_transformers_says(
    engine: Engine, model: LlamaForCausalLM, prompts: list[list[int]]
) -> None:
    want = [greedy(model, ids, 24) for ids in prompts]
    assert sum(map(len, want)) > 40
    got = engine.complete(prompts * 3, GREEDY)
    assert [c.tokens for c in got] == want * 3
    assert [c.prompt_tokens for c in got] == [len(p) for p in prompts] * 3
    assert [tokens(stream(engine, ids, GREEDY)) for ids in prompts] == want
    for c in got:
        assert c.text == engine.tokenizer.decode(c.tokens)
        assert (c.finish_reason == "length") == (len(c.tokens) == 24)


def test_scores_are_the_models(
    engine: Engine, model: LlamaForCausalLM, prompts: list[list[int]]
) -> None:
    # Under the model itself: neither temperature nor bias nor penalties are in them.
    odd = Sampling(
        max_tokens=10, temperature=0.5, seed=1, top_logprobs=3, prompt_logprobs=True, logit_bias={40: 5.0}, presence_penalty=1.0
    )  # fmt: skip
    ids = prompts[2]
    heard = stream(engine, ids, odd)
    logp = scores(model, ids + tokens(heard))
    got = [x for p in heard for x in p.logprobs]
    at = range(len(ids) - 1, len(ids) + len(tokens(heard)) - 1)
    want = [logp[k, t] for k, t in zip(at, tokens(heard), strict=True)]
    np.testing.assert_allclose(got, want, atol=CLOSE)
    for k, top in zip(at, [t for p in heard for t in p.top], strict=True):
        assert list(top) == np.argsort(-logp[k])[:3].tolist()
        np.testing.assert_allclose(list(top.values()), -np.sort(-logp[k])[:3], atol=CLOSE)
    said = heard[0].prompt
    assert said is not None
    assert said.logprobs[0] is None
    assert said.top[0] is None
    want = [logp[k, t] for k, t in enumerate(ids[1:])]
    np.testing.assert_allclose(said.logprobs[1:], want, atol=CLOSE)  # type: ignore[arg-type]
    for k, row in enumerate(said.top[1:]):
        assert row is not None
        assert list(row) == np.argsort(-logp[k])[:3].tolist()
    assert all(p.prompt is None for p in heard[1:])


def test_a_prompt_is_scored_without_an_answer(engine: Engine, prompts: list[list[int]]) -> None:
    none = Sampling(max_tokens=0, prompt_logprobs=True)
    heard = stream(engine, prompts[0], none)
    assert (text(heard), tokens(heard)) == ("", [])
    assert heard[-1].finish_reason == "length"
    said = heard[0].prompt
    assert said is not None
    direct = engine.logprobs([prompts[0]])[0]
    np.testing.assert_allclose(said.logprobs[1:], direct, atol=CLOSE)  # type: ignore[arg-type]
    assert said.top == [None] * len(prompts[0])
    assert stream(engine, prompts[0], replace(none, prompt_logprobs=False)) == [
        Piece(finish_reason="length")
    ]


def test_sequences_are_scored_up_to_the_whole_context(
    engine: Engine, model: LlamaForCausalLM
) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(7, 300, size=n).tolist() for n in (40, 1, 128, 9, 2)] + [[]]
    for ids, got in zip(sequences, engine.logprobs(sequences), strict=True):
        assert got.dtype == np.float32
        assert got.shape == (max(len(ids) - 1, 0),)
        if len(ids) > 1:
            logp = scores(model, ids)
            want = [logp[k, t] for k, t in enumerate(ids[1:])]
            np.testing.assert_allclose(got, want, atol=CLOSE)


def test_a_stop_string_ends_the_text_before_it(engine: Engine, prompts: list[list[int]]) -> None:
    free = stream(engine, prompts[0], LONG)
    stop = text(free)[5:8]
    cut = stream(engine, prompts[0], replace(LONG, stop=("§§", stop)))
    assert text(cut) == text(free)[: text(free).find(stop)]
    assert cut[-1].finish_reason == "stop"
    assert len(tokens(cut)) < len(tokens(free))
    until(lambda: engine.load().running == 0)


@pytest.mark.parametrize("seed", range(6))
def test_pieces_are_whole_and_add_up(engine: Engine, seed: int) -> None:
    # Random bytes: characters of several tokens, broken ones too.
    sampling = Sampling(max_tokens=40, temperature=2.0, seed=seed, stop=("e", "a b"))
    ids = engine.prompt("Grüße 🧊")
    heard = stream(engine, ids, sampling)
    assert text(heard) == engine.complete([ids], sampling)[0].text
    assert "e" not in text(heard)
    assert all(p.text for p in heard[:-1])
    whole = engine.tokenizer.decode(tokens(heard))
    assert whole.startswith(text(heard))
    said = ""
    for piece in heard[:-1]:
        said += piece.text
        assert not said.endswith("a")


def test_sentinels_end_the_text_and_are_not_in_it(engine: Engine) -> None:
    ended = engine.complete([engine.prompt("a")] * 24, Sampling(60, temperature=2.0, seed=0))
    assert {c.finish_reason for c in ended} == {"stop", "length"}
    for c in ended:
        assert all(t >= len(SPECIALS) for t in c.tokens)
        assert not any(s in c.text for s in SPECIALS)
        assert (c.finish_reason == "length") == (len(c.tokens) == 60)
        assert len(c.logprobs) == len(c.tokens)


def test_seeds_repeat_and_samples_differ(engine: Engine, prompts: list[list[int]]) -> None:
    first = engine.complete(prompts[:1] * 6, WARM)
    assert [c.tokens for c in engine.complete(prompts[:1] * 6, WARM)] == [c.tokens for c in first]
    assert len({tuple(c.tokens) for c in first}) > 3
    for sample in (0, 3):
        assert tokens(stream(engine, prompts[0], WARM, sample)) == first[sample].tokens
    other = engine.complete(prompts[:1] * 6, replace(WARM, seed=8))
    assert [c.tokens for c in other] != [c.tokens for c in first]
    unsown = replace(WARM, seed=None)
    assert len({tuple(tokens(stream(engine, prompts[0], unsown))) for _ in range(4)}) > 1


def test_draws_follow_what_is_left_of_the_probabilities(
    engine: Engine, model: LlamaForCausalLM
) -> None:
    ids = engine.prompt("x")
    p = np.exp(scores(model, ids)[-1])
    got = engine.complete([ids] * 800, Sampling(max_tokens=1, seed=1))
    counts = np.bincount([c.tokens[0] for c in got if c.tokens], minlength=len(p))
    likely = p > 0.01
    np.testing.assert_allclose(counts[likely] / 800, p[likely], atol=0.07)
    order = np.argsort(-p)
    kept = {
        "top_k": (2, order[:2]),
        "top_p": (0.3, order[: int(np.searchsorted(np.cumsum(p[order]), 0.3)) + 1]),
        "min_p": (0.5, np.flatnonzero(p >= 0.499 * p.max())),
    }
    for name, (value, left) in kept.items():
        cut = engine.complete([ids] * 60, Sampling(max_tokens=1, seed=1, **{name: value}))  # type: ignore[arg-type]
        assert {t for c in cut for t in c.tokens} <= set(left.tolist()), name


def test_bias_and_penalties_change_the_logits(
    engine: Engine, model: LlamaForCausalLM, prompts: list[list[int]]
) -> None:
    def change(logits: torch.Tensor, new: list[int]) -> torch.Tensor:
        counts = torch.bincount(torch.tensor(new, dtype=torch.long), minlength=len(logits))
        bias = torch.zeros_like(logits)
        bias[50], bias[60] = 3.0, -100.0
        return logits + bias - 1.5 * counts - 0.75 * (counts > 0)

    sampling = replace(
        GREEDY, logit_bias={50: 3.0, 60: -100.0}, frequency_penalty=1.5, presence_penalty=0.75
    )
    for ids in prompts:
        assert tokens(stream(engine, ids, sampling)) == greedy(model, ids, 24, change)


def test_the_context_ends_an_answer(engine: Engine) -> None:
    assert engine.context == 128
    heard = stream(engine, [9] * 120, LONG)
    assert heard[-1].finish_reason == "length"
    assert len(tokens(heard)) == 8


def test_time_ends_an_answer(engine: Engine, prompts: list[list[int]]) -> None:
    heard = stream(engine, prompts[0], replace(LONG, seconds=1e-6))
    assert heard[-1].finish_reason == "length"
    assert 1 <= len(tokens(heard)) <= 2


def test_the_gap_is_laid_out_as_the_model_learnt_it(engine: Engine) -> None:
    def plain(text: str) -> list[int]:
        return list(engine.tokenizer.encode(text, add_special_tokens=False).ids)

    got = engine.prompt("def f(", "):\n")
    assert got == [FIM_PREFIX, *plain("def f("), FIM_SUFFIX, *plain("):\n"), FIM_MIDDLE]
    assert engine.prompt("") == [END]
    assert engine.info["model"] == "tiny"
    assert engine.complete([got], GREEDY)[0].prompt_tokens == len(got)


def test_cancelling_frees_the_slot(engine: Engine, prompts: list[list[int]]) -> None:
    heard = stream(engine, prompts[3], LONG, after=1)  # cancels again at each piece after that
    assert heard[-1].finish_reason == "cancelled"
    assert len(tokens(heard)) < 120
    until(lambda: engine.load() == Load(0, 0, 2, 2))
    same = engine.complete(prompts[:1], GREEDY)[0]
    assert tokens(stream(engine, prompts[0], GREEDY)) == same.tokens


def test_a_full_queue_says_so(engine: Engine, prompts: list[list[int]]) -> None:
    told: SimpleQueue[Piece | Exception] = SimpleQueue()
    calls: list[Call] = []

    def fill() -> None:
        while len(calls) < 20:
            calls.append(engine.submit(prompts[3], LONG, told.put))

    with pytest.raises(Full):
        fill()
    now = engine.load()
    assert now.running + now.waiting >= 2
    for call in calls:
        call.cancel()
    ends: list[str] = []
    while len(ends) < len(calls):
        what = told.get(timeout=60)
        assert isinstance(what, Piece), what
        ends += [what.finish_reason] if what.finish_reason else []
    assert set(ends) <= {"cancelled", "length"}
    until(lambda: engine.load() == Load(0, 0, 2, 2))


def test_many_prompts_need_no_place_in_the_queue(engine: Engine, prompts: list[list[int]]) -> None:
    assert engine.complete([], GREEDY) == []
    got = engine.complete(prompts[:1] * 30, GREEDY)
    assert len({tuple(c.tokens) for c in got}) == 1
    stopped = engine.complete(prompts[3:] * 30, LONG, cancel=lambda: True)
    assert {c.finish_reason for c in stopped} <= {"cancelled", "length"}
    assert "cancelled" in {c.finish_reason for c in stopped}


def test_what_does_not_fit_is_refused_at_once(engine: Engine) -> None:
    for ids, says in (([9] * 128, "128"), ([9, 9999], "9999"), ([-1], "-1"), ([], "token")):
        with pytest.raises(ValueError, match=says):
            engine.submit(ids, GREEDY, lambda _: None)
        with pytest.raises(ValueError, match=says):
            engine.complete([ids], GREEDY)
    with pytest.raises(ValueError, match="129"):
        engine.logprobs([[9] * 129])
    with pytest.raises(ValueError, match="9999"):
        engine.submit([9], replace(GREEDY, logit_bias={9999: 1.0}), lambda _: None)
    assert engine.load() == Load(0, 0, 2, 2)


def test_settings_at_their_ends_are_harmless(engine: Engine, prompts: list[list[int]]) -> None:
    odd = Sampling(
        max_tokens=10**12, temperature=2.0, top_k=10**12, min_p=1.0, seed=2**64 + 1, top_logprobs=20
    )
    assert stream(engine, prompts[0], odd)[-1].finish_reason in ("stop", "length")
    assert stream(engine, prompts[0], GREEDY)[-1].finish_reason in ("stop", "length")


def test_a_caller_that_fails_harms_nobody(engine: Engine, prompts: list[list[int]]) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("this caller is broken")

    engine.submit(prompts[0], LONG, fails)
    assert tokens(stream(engine, prompts[0], GREEDY))
    until(lambda: engine.load() == Load(0, 0, 2, 2))
