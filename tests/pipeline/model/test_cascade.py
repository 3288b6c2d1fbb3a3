"""The screen's model: the recall it promises holds on files it has not seen, and its floors say so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels.grams import regions, rows
from pipeline.model.cascade import (
    REST,
    Sample,
    Screen,
    Wanted,
    allowed,
    best,
    curve,
    fit,
    floor,
    guesses,
    promised,
)

BITS, REGION = 14, 200
WANTED = Wanted(share=0.05, recall=0.9, confidence=0.9, enough=30, short=0)


def planted(count: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Files of good and bad words; the score is their balance and some noise. Two big languages and
    a few files of a third, all of them poor."""
    rng = np.random.default_rng(seed)
    good, bad = ([f"{kind}{k}" for k in range(50)] for kind in ("good", "bad"))
    share = rng.beta(2, 4, size=count)
    language = rng.choice(["Python", "C", "Ada"], size=count, p=[0.6, 0.39, 0.01])
    share[language == "Ada"] *= 0.3
    texts = [
        " ".join(rng.choice(good if rng.random() < s else bad) for _ in range(60)) for s in share
    ]
    level = 6 * share - 3 + rng.normal(0, 0.3, size=count)
    return texts, 1 / (1 + np.exp(-level)), language.astype(str)


def as_sample(texts: list[str], score: np.ndarray, language: np.ndarray) -> Sample:
    data, offsets = flat(pa.array(texts, pa.large_string()))
    spans, bounds = regions(offsets, REGION)
    columns, values, ends = rows(data, spans, BITS)
    size = np.diff(offsets)
    return Sample(columns, values, ends, bounds, score, size, size, language)


def guessed(screen: Screen, texts: list[str]) -> list[float]:
    languages = pa.chunked_array([["C"] * len(texts)], pa.string())
    return screen.judge(pa.chunked_array([texts], pa.large_string()), languages)[0].tolist()


@pytest.fixture(scope="module")
def made() -> tuple[Screen, dict]:
    return fit(as_sample(*planted(2000, 0)), WANTED, BITS, 1.0, REGION)


def test_the_recall_holds_on_files_that_it_has_not_seen(made: tuple[Screen, dict]) -> None:
    screen, told = made
    texts, score, language = planted(2000, 1)
    column = pa.chunked_array([texts], pa.large_string())
    _, passed = screen.judge(column, pa.chunked_array([language.tolist()]))
    top = best(score, np.array([len(t) for t in texts]), language, WANTED.share)
    assert (top & passed).sum() / top.sum() >= WANTED.recall
    assert passed.mean() < 0.5
    assert abs(passed.mean() - told["cost"]) < 0.1
    assert set(screen.floors) == {"Python", "C", REST}
    assert top[language == "Ada"].any()


def test_what_it_tells_is_what_its_guesses_say(made: tuple[Screen, dict]) -> None:
    screen, told = made
    assert told["best"] > 80
    assert told["recall_promised"] <= 1 - told["missed"] / told["best"]
    assert told["correlation"] > 0.8
    costs = [row["cost"] for row in told["curve"]]
    assert costs == sorted(costs)
    assert screen.floors == told["floors"]


def test_no_file_is_guessed_by_a_model_that_saw_it() -> None:
    texts, _, language = planted(300, 2)
    noise = np.random.default_rng(3).uniform(0.1, 0.9, 300)
    guess = guesses(as_sample(texts, noise, language), BITS, 0.1)
    assert abs(np.corrcoef(guess, noise)[0, 1]) < 0.25


def test_a_screen_is_what_was_saved_byte_for_byte(
    made: tuple[Screen, dict], tmp_path: Path
) -> None:
    screen, _ = made
    screen.save(tmp_path)
    texts = planted(50, 4)[0]
    again = Screen.load(tmp_path)
    assert guessed(again, texts) == guessed(screen, texts)
    assert again.floors == screen.floors
    fit(as_sample(*planted(2000, 0)), WANTED, BITS, 1.0, REGION)[0].save(tmp_path / "again")
    for name in ("weights.parquet", "screen.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_guess_does_not_depend_on_other_files(made: tuple[Screen, dict]) -> None:
    screen, _ = made
    texts = ["", *planted(20, 5)[0], "🧊" * 300]
    assert guessed(screen, texts) == [guessed(screen, [t])[0] for t in texts]
    assert guessed(screen, []) == []


def test_short_files_always_pass_and_take_no_part_in_the_floors(made: tuple[Screen, dict]) -> None:
    screen, _ = made
    hopeless = np.zeros(3, np.float32)
    sizes = np.array([10, 11, 12])
    short = replace(screen, short=11)
    assert short.passes(hopeless, ["C"] * 3, sizes).tolist() == [True, True, False]
    sure = np.array([np.inf, np.inf], np.float32)
    assert floor(sure, WANTED) == 0
    some = np.append(np.linspace(0.5, 0.9, 100), np.full(100, np.inf)).astype(np.float32)
    assert floor(some, WANTED) == some[allowed(200, WANTED.recall, WANTED.confidence)]


@given(st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.98]), st.sampled_from([0.5, 0.9]))
def test_the_misses_allowed_are_clopper_and_pearsons(
    many: int, recall: float, confidence: float
) -> None:
    from math import comb

    def chance(most: int) -> float:
        return sum(
            comb(many, m) * (1 - recall) ** m * recall ** (many - m) for m in range(most + 1)
        )

    m = allowed(many, recall, confidence)
    assert m < 0 or chance(m) <= 1 - confidence + 1e-9
    assert m == many or chance(m + 1) > 1 - confidence - 1e-9


def test_a_promise_is_the_recall_that_would_allow_the_misses() -> None:
    assert allowed(300, promised(300, 3, 0.9) - 1e-6, 0.9) >= 3
    assert promised(300, 3, 0.9) < 0.99
    assert promised(100, 0, 0.9) == pytest.approx(0.1 ** (1 / 100), abs=1e-6)


def test_a_floor_of_too_few_files_lies_below_them_all() -> None:
    few = np.array([0.5, 0.6, 0.7], np.float32)
    assert floor(few, WANTED) == pytest.approx(0.4)
    assert floor(np.zeros(0, np.float32), WANTED) == 0
    many = np.linspace(0.5, 0.9, 200).astype(np.float32)
    missed = allowed(200, WANTED.recall, WANTED.confidence)
    assert floor(many, WANTED) == pytest.approx(float(many[missed]))
    assert 0 < missed < 20


def test_the_best_are_cut_by_tokens_and_every_language_has_one() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    length = np.array([10, 30, 30, 30, 7])
    language = np.array(["C", "C", "C", "C", "Ada"])
    assert best(score, length, language, 0.4).tolist() == [True, True, False, False, True]
    assert best(score, length, language, 0.01).tolist() == [True, False, False, False, True]


def test_the_curve_is_the_work_above_each_recall() -> None:
    guess = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    top = np.array([True, False, True, False])
    cost = np.array([1.0, 3.0, 1.0, 3.0])
    assert curve(guess, top, cost, (0.5, 1.0)) == [
        {"recall": 0.5, "cost": 0.125},
        {"recall": 1.0, "cost": 0.625},
    ]
