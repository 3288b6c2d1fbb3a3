"""Generation: what transformers would say, alone or in a batch, with seeds, stops and streams."""

import json
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import pytest
import torch

from pipeline.core.schema import (
    END,
    FILE_SEP,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    SPECIALS,
    specials,
)
from pipeline.model.batching import Batching
from pipeline.model.engine import Piece, Sampling
from pipeline.model.text import Text
from tests.pipeline.model.asking import stream
from tests.tiny import tiny_model_folder

GREEDY = Sampling(max_tokens=24, temperature=0)
PROMPTS = ("def add(a, b):", "for", "class Point:\n    def __init__(self, x, y):\n", "x")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Batching:
    return Batching(tiny_model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def prompts(engine: Batching) -> list[list[int]]:
    return [engine.prompt(p) for p in PROMPTS]


def reference(engine: Batching, ids: list[int], count: int) -> list[int]:
    out = engine.model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=list(range(len(SPECIALS))),
    )
    new = out[0, len(ids) :].tolist()
    return [t for t in new if t >= len(SPECIALS)]


def test_greedy_is_what_transformers_generates(engine: Batching, prompts: list[list[int]]) -> None:
    for ids, got in zip(prompts, engine.complete(prompts, GREEDY), strict=True):
        assert got.tokens == reference(engine, ids, 24)
        assert got.prompt_tokens == len(ids)


def test_batch_mates_and_portions_change_nothing(
    engine: Batching, prompts: list[list[int]], tmp_path: Path
) -> None:
    alone = [engine.complete([p], GREEDY)[0] for p in prompts]
    small = Batching(tiny_model_folder(tmp_path), slots=3, read=5)
    for got in (engine.complete(prompts * 2, GREEDY), small.complete(prompts * 2, GREEDY)):
        assert [c.tokens for c in got] == [c.tokens for c in alone * 2]
        for one, other in zip(got, alone * 2, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.8}, {"top_k": 5}, {"top_k": 9, "top_p": 0.5}])
def test_seeds_repeat_and_samples_differ(
    engine: Batching, prompts: list[list[int]], sampling: dict[str, float]
) -> None:
    warm = Sampling(max_tokens=12, temperature=1.5, seed=7, **sampling)  # type: ignore[arg-type]
    first = engine.complete(prompts[:1] * 6, warm)
    assert engine.complete(prompts[:1] * 6, warm) == first
    assert len({tuple(c.tokens) for c in first}) > 3
    # Sample i is (seed, i) whatever else is in the call.
    assert engine.complete(prompts[:1] * 2, warm)[1].tokens == first[1].tokens


def test_draws_follow_the_probabilities(engine: Batching) -> None:
    ids = engine.prompt("x")
    p = engine.model(torch.tensor([ids])).logits[0, -1].detach().double().softmax(-1).numpy()
    got = engine.complete([ids] * 4000, Sampling(max_tokens=1, seed=1))
    counts = np.bincount([c.tokens[0] for c in got if c.tokens], minlength=len(p))
    likely = p > 0.01
    np.testing.assert_allclose(counts[likely] / 4000, p[likely], atol=0.03)
    top = engine.complete([ids] * 300, Sampling(max_tokens=1, seed=1, top_k=2))
    assert {t for c in top for t in c.tokens} <= set(np.argsort(-p)[:2].tolist())
    nucleus = engine.complete([ids] * 300, Sampling(max_tokens=1, seed=1, top_p=0.3))
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), 0.3)) + 1]
    assert {t for c in nucleus for t in c.tokens} <= set(kept.tolist())


def test_logprobs_of_a_completion_are_the_models(
    engine: Batching, prompts: list[list[int]]
) -> None:
    got = engine.complete(prompts[:1], Sampling(max_tokens=10, temperature=0.5, top_k=3, seed=0))[0]
    direct = engine.logprobs([prompts[0] + got.tokens])[0]
    np.testing.assert_allclose(got.logprobs, direct[len(prompts[0]) - 1 :], atol=1e-4)


def test_logprobs_equal_a_direct_softmax(engine: Batching, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(7, 300, size=n).tolist() for n in (40, 1, 128, 9, 2)] + [[]]
    for limit in (1 << 26, 1):
        monkeypatch.setattr("pipeline.model.scores.LOGITS", limit)
        for ids, got in zip(sequences, engine.logprobs(sequences), strict=True):
            assert got.shape == (max(len(ids) - 1, 0),)
            if len(ids) < 2:
                continue
            logp = engine.model(torch.tensor([ids])).logits.detach().log_softmax(-1)[0, :-1]
            want = logp.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
            np.testing.assert_allclose(got, want, atol=1e-4)


def test_stop_strings_end_the_text_before_them(engine: Batching, prompts: list[list[int]]) -> None:
    free = engine.complete(prompts[:1], GREEDY)[0]
    assert len(free.text) > 8
    stop = free.text[5:8]
    cut = engine.complete(prompts[:1], Sampling(max_tokens=24, temperature=0, stop=("§§", stop)))[0]
    assert cut.text == free.text[: free.text.find(stop)]
    assert cut.finish_reason == "stop"
    assert len(cut.tokens) < len(free.tokens)


def test_sentinels_end_the_text_and_are_not_in_it(engine: Batching) -> None:
    sampling = Sampling(max_tokens=60, temperature=3.0, seed=0)
    ended = engine.complete([engine.prompt("a")] * 40, sampling)
    assert {c.finish_reason for c in ended} == {"stop", "length"}
    for c in ended:
        assert all(t >= len(SPECIALS) for t in c.tokens)
        assert not any(s in c.text for s in SPECIALS)
        assert (c.finish_reason == "length") == (len(c.tokens) == 60)
        assert len(c.logprobs) == len(c.tokens)


@pytest.mark.parametrize("seed", range(12))
def test_streamed_pieces_are_whole_and_add_up(engine: Batching, seed: int) -> None:
    # Random bytes: characters of several tokens, broken ones too. Half a character would stay in
    # the sum as a replacement character.
    sampling = Sampling(max_tokens=40, temperature=2.5, seed=seed, stop=("e", "a b"))
    ids = engine.prompt("Grüße 🧊")
    pieces = [p.text for p in stream(engine, ids, sampling)]
    whole = engine.complete([ids], sampling)[0].text
    assert "".join(pieces) == whole
    assert all(pieces[:-1])


def test_a_stream_says_a_character_when_it_is_complete(engine: Batching) -> None:
    def said(text: str, *stop: str) -> list[str]:
        answer = Text(engine.tokenizer, stop)
        return [answer.add(t) for t in engine.tokenizer.encode(text).ids]

    assert [t for t in said("é🧊x") if t] == ["é", "🧊", "x"]
    assert "".join(said("return 1\n\nde", "\n\ndef", "\nclass")) == "return 1"
    assert "".join(said("return 1\nx", "\n\ndef")) == "return 1\nx"


def test_prompt_lays_out_the_gap(engine: Batching) -> None:
    def plain(text: str) -> list[int]:
        return list(engine.tokenizer.encode(text, add_special_tokens=False).ids)

    got = engine.prompt("def f(", "):\n")
    assert got == [FIM_PREFIX, *plain("def f("), FIM_SUFFIX, *plain("):\n"), FIM_MIDDLE]
    assert engine.prompt("a", "") == [FIM_PREFIX, *plain("a"), FIM_SUFFIX, FIM_MIDDLE]
    assert engine.prompt("") == [END]
    # An editor's own template is understood; a file that happens to spell a sentinel is not one.
    assert engine.prompt("<|fim_prefix|>a<|fim_suffix|><|fim_middle|>")[0] == FIM_PREFIX
    assert engine.prompt("<|fim_middle|>", "x").count(FIM_MIDDLE) == 1


def test_a_model_of_span_corruption_is_asked_for_its_first_mask(tmp_path: Path) -> None:
    engine = Batching(tiny_model_folder(tmp_path, masks=3))
    got = engine.tokenizer.decode(engine.prompt("a", "b"), skip_special_tokens=False)
    assert got == "a<mask_1>b<|endoftext|><sep><mask_1>"
    assert {engine.tokenizer.token_to_id(t) for t in specials(3)} <= engine._voice.stops


def test_other_files_stand_before_the_file_at_hand(engine: Batching) -> None:
    def plain(text: str) -> list[int]:
        return list(engine.tokenizer.encode(text, add_special_tokens=False).ids)

    extra = [("a.py", "x = 1\n"), ("b.py", "<|fim_middle|>")]
    got = engine.prompt("def", "):", extra)
    assert got == [*plain("x = 1\n"), FILE_SEP, *got[len(plain("x = 1\n")) + 1 :]]
    assert (got.count(FILE_SEP), got.count(FIM_MIDDLE)) == (2, 1)
    assert got[-len(engine.prompt("def", "):")) :] == engine.prompt("def", "):")
    assert engine.prompt("x", extra=extra)[-1:] == plain("x")


def test_a_suffix_is_refused_by_a_model_without_infilling(tmp_path: Path) -> None:
    engine = Batching(tiny_model_folder(tmp_path, infill=False))
    assert engine.info["infill"] is False
    with pytest.raises(ValueError, match="'tiny' was not trained to infill"):
        engine.prompt("a", "b")
    card = json.loads((tmp_path / "icefloe.json").read_text())
    assert engine.info == card


def test_the_context_bounds_prompt_and_answer(tmp_path: Path) -> None:
    engine = Batching(tiny_model_folder(tmp_path, context=16))
    assert engine.context == 16
    with pytest.raises(ValueError, match="16 tokens, the model's context is 16"):
        engine.complete([[9] * 16], GREEDY)
    with pytest.raises(ValueError, match="context is 16"):
        engine.prompt("def f():\n    return 1234567890 + 1234567890\n")
    with pytest.raises(ValueError, match="17 tokens"):
        engine.logprobs([[9] * 17])
    for call in (lambda ids: engine.complete([ids], GREEDY), lambda ids: engine.logprobs([ids])):
        with pytest.raises(ValueError, match=r"token ids \[9999, -1\] are not in the vocabulary"):
            call([9, 9999, -1])
    got = engine.complete([[9] * 12], Sampling(max_tokens=100, seed=3))[0]
    assert len(got.tokens) <= 4
    assert (got.finish_reason == "length") == (len(got.tokens) == 4)


def test_no_tokens_is_an_answer_too(engine: Batching, prompts: list[list[int]]) -> None:
    got = engine.complete(prompts, Sampling(max_tokens=0))
    assert [(c.text, c.finish_reason) for c in got] == [("", "length")] * len(prompts)
    assert engine.complete([], GREEDY) == []
    assert stream(engine, prompts[0], Sampling(max_tokens=0)) == [Piece(finish_reason="length")]


def test_cancel_stops_between_steps(engine: Batching, prompts: list[list[int]]) -> None:
    pieces = stream(engine, prompts[0], GREEDY, after=2)
    assert pieces[-1].finish_reason == "cancelled"
    got = engine.complete(prompts, Sampling(max_tokens=100, seed=1), cancel=lambda: True)
    assert {c.finish_reason for c in got} <= {"stop", "length", "cancelled"}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -2}, "top_k is -2"),
        ({"seed": -3}, "seed is -3"),
        ({"stop": ("",)}, "empty string"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"presence_penalty": -3}, "presence_penalty is -3"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty is inf"),
        ({"logit_bias": {5: 101}}, "logit_bias is 101"),
        ({"logit_bias": {-5: 1}}, "logit_bias is for token -5"),
        ({"top_logprobs": 21}, "top_logprobs is 21"),
        ({"seconds": -1}, "seconds is -1"),
    ],
)
def test_settings_out_of_range_are_named(bad: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Sampling(**bad)  # type: ignore[arg-type]


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model folder"):
        Batching(tmp_path)


class Counted(str):
    """A text that counts how often a part of it was looked at."""

    looks = 0

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        Counted.looks += 1
        return str(self)[key]


def test_a_long_stop_string_costs_no_more_than_the_text(engine: Batching) -> None:
    answer = Text(engine.tokenizer, [Counted("xyz" * 5000)])
    for token in engine.prompt("def add(a, b):"):
        answer.add(token)
    assert Counted.looks < 200
