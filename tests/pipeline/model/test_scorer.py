"""Scoring: which windows a file gives, what they are worth, and that batch mates do not matter."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.schema import END, SPECIALS
from pipeline.model.scorer import Scorer, _batches, frame, windows
from tests.tiny import TEXTS, tiny_annotator_folder


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer(tiny_annotator_folder(tmp_path_factory.mktemp("annotator"), window=32))


def text_of(scorer: Scorer, tokens: int) -> str:
    """A text of exactly `tokens` tokens: letters that TEXTS has not, so that none merge."""
    text = "".join("QZXJ"[(k * k) % 4] for k in range(tokens))
    assert len(scorer.tokenizer.encode(text, add_special_tokens=False).ids) == tokens
    return text


@pytest.mark.parametrize(
    ("tokens", "starts", "truncated"),
    [
        (0, [0], False),
        (31, [0], False),
        (32, [0, 1], False),
        (62, [0, 31], False),
        (63, [0, 16, 32], False),
        (93, [0, 31, 62], False),
        (94, [0, 31, 63], True),
    ],
)
def test_windows_are_top_middle_and_bottom(
    scorer: Scorer, tokens: int, starts: list[int], truncated: bool
) -> None:
    text = text_of(scorer, tokens)
    ids = scorer.tokenizer.encode(text, add_special_tokens=False).ids
    [(parts, cut, _)] = windows(scorer.tokenizer, [text], 32)
    assert [p.tolist() for p in parts] == [[END, *ids[s : s + 31]] for s in starts]
    assert cut is truncated
    assert scorer.score([text])[0].truncated is truncated


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=400))
def test_windows_lie_where_their_text_is(scorer: Scorer, text: str) -> None:
    [(parts, truncated, spans)] = windows(scorer.tokenizer, [text], 32, located=True)
    assert len(spans) == len(parts)
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    holes = any(b[0] > a[1] for a, b in pairwise(spans))
    assert holes <= truncated
    for part, (start, end) in zip(parts, spans, strict=True):
        assert scorer.tokenizer.decode(part.tolist()).strip("\ufffd") in text[start:end]


def test_places_are_told_only_when_asked(scorer: Scorer) -> None:
    [plain], [located] = (scorer.score([TEXTS[1]], located=at) for at in (False, True))
    assert plain.spans == ()
    assert located == replace(plain, spans=located.spans)
    assert located.tokens == sum(map(len, windows(scorer.tokenizer, [TEXTS[1]], 32)[0].rows))


def test_a_score_is_the_mean_of_its_windows_softmax(scorer: Scorer) -> None:
    text = text_of(scorer, 200)
    [got] = scorer.score([text])
    [(parts, _, _)] = windows(scorer.tokenizer, [text], 32)
    for part, value in zip(parts, got.windows, strict=True):
        logits = scorer.model(torch.tensor(part[None].astype(np.int64))).logits.detach()
        assert value == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-5)
    assert got.score == pytest.approx(sum(got.windows) / 3)


def test_order_and_values_do_not_depend_on_the_batch(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS, "", *(text_of(scorer, n) for n in (5, 40, 70, 300))] * 3
    alone = [scorer.score([t])[0] for t in texts]
    for budget in (1, 200, 4096):
        monkeypatch.setattr("pipeline.model.scorer._CPU_BUDGET", budget)
        for got, want in zip(scorer.score(texts), alone, strict=True):
            np.testing.assert_allclose(got.windows, want.windows, atol=1e-5)
    assert scorer.score(texts) == scorer.score(texts)
    assert scorer.score([]) == []


def test_special_tokens_spelled_in_a_file_are_text(scorer: Scorer) -> None:
    [(parts, _, _)] = windows(scorer.tokenizer, [f"a{SPECIALS[END]}"], 32)
    assert parts[0].tolist().count(END) == 1
    assert frame(scorer.tokenizer) == ([END], [])


def test_one_output_is_given_raw(tmp_path: Path) -> None:
    scorer = Scorer(tiny_annotator_folder(tmp_path, labels=1))
    [got] = scorer.score([TEXTS[0]])
    [(parts, _, _)] = windows(scorer.tokenizer, [TEXTS[0]], scorer.window)
    ids = torch.tensor(parts[0][None].astype(np.int64))
    assert got.windows[0] == pytest.approx(float(scorer.model(ids).logits.detach()[0, 0]), abs=1e-4)


def test_what_is_no_annotator_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no annotator folder"):
        Scorer(tmp_path)
    folder = tiny_annotator_folder(tmp_path / "three", labels=3)
    with pytest.raises(ValueError, match="3 classes"):
        Scorer(folder)


def test_name_and_window_come_from_the_card(tmp_path: Path) -> None:
    folder = tiny_annotator_folder(tmp_path, window=24)
    scorer = Scorer(folder)
    card = json.loads((folder / "annotator.json").read_text())
    assert (scorer.name, scorer.window) == (card["name"], 24)


@given(widths=st.lists(st.integers(1, 512), max_size=60), budget=st.integers(1, 4096))
def test_a_batch_has_a_power_of_two_of_rows_within_the_budget(
    widths: list[int], budget: int
) -> None:
    batches = list(_batches(widths, budget))
    assert sorted(k for batch in batches for k in batch) == list(range(len(widths)))
    for batch in batches:
        assert len(batch).bit_count() == 1
        assert len(batch) == 1 or len(batch) * max(widths[k] for k in batch) <= budget


def test_shapes_repeat_however_many_files_there_are(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN keeps a plan of each: more of them are more memory."""
    shapes = Counter[torch.Size]()
    forward = scorer.model.forward

    def watched(**inputs: torch.Tensor) -> object:
        shapes[inputs["input_ids"].shape] += 1
        return forward(**inputs)

    monkeypatch.setattr(scorer.model, "forward", watched)
    texts = [text_of(scorer, n) for n in range(1, 90)]
    scorer.score(texts)
    few = len(shapes)
    scorer.score(texts[::-1] * 3)
    assert {width for _, width in shapes} == {16, 32}
    assert len(shapes) <= few + 4
