"""What a model's answer is read as, what of a text it is shown, and how a sample is spread."""

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.endpoint import Answer, Failure, Spent
from pipeline.core.grading import ENDING, PROMPT, excerpt, judged, question, read_label
from pipeline.core.spread import spread


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ('{"label": 3, "reason": "clear"}', 3),
        ('{"label": 3.5}', 3.5),
        (" 4 \n", 4),
        ("4.0", 4),
        ('```json\n{"label": 2}\n```', 2),
        ("<think>5? no, 1</think>\n1", 1),
        ('Here is my grade:\n{"label": 0}', 0),
        ("Grade: 4", None),
        ("4 of 5", None),
        ("4/5", None),
        ("I would not give a 5", None),
        ('{"label": "4"}', None),
        ('{"label": true}', None),
        ('{"label": NaN}', None),
        ('{"label": 1e999}', None),
        ('{"score": 4}', None),
        ("[4]", None),
        ("null", None),
        ("", None),
        ("<think>4", None),
        ("[" * 100_000, None),
    ],
)
def test_read_label(answer: str, label: float | None) -> None:
    assert read_label(answer) == label


@given(st.text())
def test_any_answer_is_a_finite_label_or_none(answer: str) -> None:
    found = read_label(answer)
    assert found is None or math.isfinite(found)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.text())
def test_what_is_asked_for_is_read(label: float, reason: str) -> None:
    assert read_label(json.dumps({"label": label, "reason": reason})) == label


def test_judged_keeps_the_raw_answer() -> None:
    def told(text: str) -> tuple[float | None, str | None, str | None]:
        found = judged(Answer(text, Spent(), False, "length"), (0, 5))
        return found.label, found.rule, found.raw

    assert told("5") == (5, None, "5")
    assert told("6") == (None, "outside_scale", "6")
    assert told("well") == (None, "no_label", "well")
    assert judged(Failure("gone"), (0, 5)).evidence == "gone"


@given(st.text(max_size=300), st.integers(3, 90))
def test_excerpt(text: str, most: int) -> None:
    shown = excerpt(text, most)
    if len(text) <= most:
        assert shown == text
        return
    parts = [shown[: most // 3], shown[-(most // 3) :]]
    assert text.startswith(parts[0])
    assert text.endswith(parts[1])
    assert len(shown) == 3 * (most // 3) + 2 * len("\n[...]\n")


def test_the_question_names_the_scale_and_holds_the_text_as_it_is() -> None:
    text = "x = '{low}'\n"
    asked = question(PROMPT, text, (0, 5))
    assert f"<file>\n{text}\n</file>" in asked
    assert "from 0 (" in asked
    assert asked.endswith(ENDING)


@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 50)), st.integers(1, 200))
def test_spread(there: dict[str, int], files: int) -> None:
    out = spread(Counter(there), files)
    assert sum(out.values()) == min(files, sum(there.values()))
    assert all(out[k] <= there[k] for k in there)
    full = [k for k in there if out[k] < there[k]]
    assert all(out[k] >= max(out.values()) - 1 for k in full)
