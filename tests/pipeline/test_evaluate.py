"""The measurements agree with slow, obvious versions on a tiny model, and the oracle scores 1."""

import gzip
import json
import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline import evaluate
from pipeline.core import sandbox
from pipeline.core.errors import RecipeError
from pipeline.core.schema import END, SPECIALS
from pipeline.model.engine import Engine, load
from pipeline.model.separation import wilson
from tests.tiny import TEXTS, tiny_model_folder

TASKS = evaluate.read_tasks(Path(pipeline.__path__[0]) / "suites" / "icefloe.jsonl")
needs_sandbox = pytest.mark.skipif(sandbox.tier().name == "none", reason=sandbox.tier().reason)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(tiny_model_folder(tmp_path_factory.mktemp("model"), context=64))


def test_bits_per_byte_by_hand(engine: Engine) -> None:
    texts = [*TEXTS, "x" * 200, f"{SPECIALS[END]} spelled out"]
    nats, size = 0.0, 0
    for text in texts:
        ids = evaluate.encode(engine, [text])[0]
        assert END not in ids
        for i in range(0, len(ids), 63):
            (scores,) = engine.logprobs([[END, *ids[i : i + 63]]])
            nats -= float(scores.sum())
        size += len(text.encode())
    assert evaluate.bits_per_byte(engine, texts) == pytest.approx(nats / math.log(2) / size)


def test_a_uniform_model_has_the_bits_of_its_vocabulary(engine: Engine) -> None:
    uniform: Any = SimpleNamespace(
        context=64,
        tokenizer=engine.tokenizer,
        logprobs=lambda rows: [np.full(len(r) - 1, -math.log(256), np.float32) for r in rows],
    )
    text = "é" * 99
    tokens = len(evaluate.encode(engine, [text])[0])
    assert evaluate.bits_per_byte(uniform, [text]) == pytest.approx(8 * tokens / 198)
    with pytest.raises(ValueError, match="no text"):
        evaluate.bits_per_byte(uniform, [""])


def test_middles_by_hand(engine: Engine) -> None:
    text = "a = 1\nb = 2\nc = 3\n"
    found = evaluate.middle_loss(engine, [text, "too\nshort"], seed=0)
    prefix, middle, suffix = "a = 1\n", "b = 2\n", "c = 3\n"
    ids = evaluate.encode(engine, [middle])[0]
    for key, prompt in (
        ("with_suffix", engine.prompt(prefix, suffix)),
        ("without_suffix", [END, *evaluate.encode(engine, [prefix])[0]]),
    ):
        (scores,) = engine.logprobs([[*prompt, *ids]])
        assert found[key] == pytest.approx(-float(scores[-len(ids) :].mean()), rel=1e-5)
    assert found["middles"] == 1


def test_middles_fit_the_context_and_follow_the_seed(engine: Engine) -> None:
    texts = ["".join(f"{i}\n" for i in range(100)), *TEXTS]
    first = evaluate.middle_loss(engine, texts, seed=1)
    assert first == evaluate.middle_loss(engine, texts, seed=1)
    assert first != evaluate.middle_loss(engine, texts, seed=2)
    with pytest.raises(ValueError, match="three lines"):
        evaluate.middle_loss(engine, ["one\n"], seed=0)


def test_cuts_reach_every_line_and_lose_nothing() -> None:
    lines = [f"{i}\n" for i in range(5)]
    cuts = {evaluate.cut(lines, 0, number) for number in range(200)}
    assert len(cuts) == 6
    assert all(c and all(c) and "".join(c) == "".join(lines) for c in cuts)


def test_ranking_of_a_random_model_is_near_chance(tmp_path: Path) -> None:
    engine = load(tiny_model_folder(tmp_path, context=512))
    found = evaluate.ranking(engine, TASKS, seed=0)
    low, high = found["interval"]
    assert found["pairs"] > 100
    assert found["too_long"] == 0
    assert 0.2 < low < found["accuracy"] < high < 0.8
    assert found == evaluate.ranking(engine, TASKS, seed=0)


def test_ranking_by_hand_and_with_no_room(engine: Engine) -> None:
    task = TASKS[0]
    found = evaluate.ranking(engine, [task], seed=0, wrong=2)
    prompt, right, *wrong = evaluate.encode(
        engine, [task["prompt"], task["canonical_solution"], *evaluate.others(task, 2, 0)]
    )
    room = 64 - max(map(len, [right, *wrong]))
    prompt = [END, *prompt][-room:]
    scores = [engine.logprobs([[*prompt, *a]])[0][len(prompt) - 1 :].sum() for a in (right, *wrong)]
    assert found["accuracy"] == np.mean([scores[0] > s for s in scores[1:]])
    long = {**task, "canonical_solution": "    return celsius + 1\n" * 30}
    assert evaluate.ranking(engine, [long], seed=0) == {
        "accuracy": None,
        "pairs": 0,
        "interval": (0.0, 1.0),
        "too_long": 1,
    }


@needs_sandbox
def test_pass_at_1_of_an_oracle_is_1(engine: Engine) -> None:
    """The oracle knows the solutions, after the stripped prompt and up to what STOP cuts."""
    answers = iter(TASKS)

    def complete(prompts: list[list[int]], sampling: Any) -> list[Any]:
        assert sampling.temperature == 0
        assert sampling.stop == evaluate.STOP
        return [SimpleNamespace(text="\n" + next(answers)["canonical_solution"]) for _ in prompts]

    oracle: Any = SimpleNamespace(context=9999, tokenizer=engine.tokenizer, complete=complete)
    found = evaluate.pass_at_1(oracle, TASKS)
    assert found.pop("interval")[1] == pytest.approx(1.0)
    assert found == {
        "pass@1": 1.0,
        "passed": 32,
        "tasks": 32,
        "tier": sandbox.tier().name,
        "failures": {},
    }
    assert not any(s in t["canonical_solution"] for t in TASKS for s in evaluate.STOP)


@needs_sandbox
def test_pass_at_1_of_a_random_model_is_0(engine: Engine) -> None:
    found = evaluate.pass_at_1(engine, TASKS[:5], max_tokens=8, seconds=1)
    assert found["passed"] == 0
    assert sum(found["failures"].values()) == 5
    assert found["failures"]["too long"] >= 1


def test_pass_at_k_golden_and_exact() -> None:
    assert evaluate.pass_at_k(2, 1, 1) == 0.5
    assert evaluate.pass_at_k(10, 3, 5) == pytest.approx(0.9166666666666666)
    assert evaluate.pass_at_k(5, 0, 3) == 0
    assert evaluate.pass_at_k(5, 3, 3) == 1
    for n in range(1, 12):
        for c in range(n + 1):
            for k in range(1, n + 1):
                exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
                assert evaluate.pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)
    for n, c, k in ((1, 0, 2), (1, 2, 1), (1, 0, 0)):
        with pytest.raises(ValueError, match="needs"):
            evaluate.pass_at_k(n, c, k)


def test_wilson_golden() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0, 0) == (0, 1)


def test_texts_within_a_budget() -> None:
    assert evaluate.within(["ab", "é", "c"], 4) == ["ab", "é"]
    assert evaluate.within(["abc", "d"], 1) == ["abc"]
    assert evaluate.within([], 1) == []


def test_reading_tasks(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(t) for t in TASKS)
    (tmp_path / "icefloe.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert evaluate.read_tasks(tmp_path / "icefloe.jsonl.gz") == TASKS
    (tmp_path / "twice.jsonl").write_text(lines + "\n" + lines.split("\n")[0])
    with pytest.raises(RecipeError, match="icefloe/0"):
        evaluate.read_tasks(tmp_path / "twice.jsonl")
    (tmp_path / "short.jsonl").write_text('{"task_id": "a", "test": "", "prompt": ""}')
    with pytest.raises(RecipeError, match="canonical_solution, entry_point"):
        evaluate.read_tasks(tmp_path / "short.jsonl")
