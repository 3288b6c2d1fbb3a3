"""Cheaper forwards: the same values but for rounding, in 8 bits nearly, and clear where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import StageError
from pipeline.model import judges, lighter
from pipeline.model.scorer import Scorer, ahead, probabilities, windows
from tests.tiny import TEXTS, tiny_annotator_folder

ENGINES = [e for e in lighter._ENGINES if e in torch.backends.quantized.supported_engines]
ROWS = [np.arange(n, dtype=np.int32) % 300 for n in (1, 5, 17, 32, 32)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_annotator_folder(tmp_path_factory.mktemp("annotator"), window=32)


def plain(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


@pytest.mark.parametrize("change", [lighter.first_only, lighter.packed])
def test_values_stay_as_they_were(folder: Path, change: object) -> None:
    want = probabilities(plain(folder), ROWS, 32)
    got = probabilities(change(plain(folder)), ROWS, 32)  # type: ignore[operator]
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_last_layer_gives_one_place(folder: Path) -> None:
    model = lighter.first_only(plain(folder))
    ids = torch.tensor(ROWS[3][None].astype(np.int64))
    assert model.bert(ids).last_hidden_state.shape == (1, 1, 32)
    assert lighter.first_only(torch.nn.Linear(2, 2)).weight.shape == (2, 2)


@pytest.mark.skipif(not ENGINES, reason="this torch multiplies in no 8 bits")
def test_eight_bits_are_near_and_do_not_depend_on_the_batch(folder: Path) -> None:
    exact, eight = Scorer(folder), Scorer(folder, precision="int8")
    assert any(isinstance(m, lighter.EightBit) for m in eight.model.modules())
    texts = [text * k for text in TEXTS for k in (1, 3)]
    want, got = exact.score(texts), eight.score(texts)
    assert max(abs(a.score - b.score) for a, b in zip(want, got, strict=True)) < 0.05
    assert [s.score for s in got] != [s.score for s in want]
    assert [eight.score([text])[0] for text in texts] == got


def test_eight_bits_where_there_are_none_say_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lighter, "_ENGINES", ())
    with pytest.raises(StageError, match="no engine for 8-bit products; use precision: exact"):
        judges.load(str(folder), threads=1, precision="int8")
    with pytest.raises(StageError, match="int8 is for CPUs, not meta"):
        judges.load(str(folder), threads=1, precision="int8", device="meta")


def test_a_judge_is_loaded_once_by_its_kind(folder: Path, tmp_path: Path) -> None:
    judge = judges.load(str(folder), threads=1)
    assert judge is judges.load(str(folder), threads=1)
    assert judge.column == "quality"
    with pytest.raises(StageError, match="no annotator folder"):
        judges.load(str(tmp_path), threads=1)
    (tmp_path / "annotator.json").write_text('{"kind": "encodr", "name": "x", "window": 8}')
    with pytest.raises(StageError, match="kind 'encodr'; did you mean 'encoder'"):
        judges.load(str(tmp_path), threads=1)


def test_what_is_made_ahead_comes_in_order_and_its_failure_too(folder: Path) -> None:
    made: list[int] = []

    def make(k: int) -> list:
        made.append(k)
        if k == 3:
            raise ValueError("three")
        return [([np.array([k])], False)]

    def found() -> list[int]:
        return [int(cut[0][0][0][0]) for cut in ahead([lambda k=k: make(k) for k in range(3)])]

    assert found() == made == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        list(ahead([lambda k=k: make(k) for k in range(5)]))
    assert list(ahead([])) == []


def test_many_texts_score_as_few(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(folder)
    texts = [text * k for text in TEXTS for k in (1, 2, 9)]
    whole = scorer.score(texts)
    monkeypatch.setattr("pipeline.model.scorer._TEXTS", 4)
    again = scorer.score(texts)
    assert [s.truncated for s in again] == [s.truncated for s in whole]
    for a, b in zip(again, whole, strict=True):
        np.testing.assert_allclose(a.windows, b.windows, atol=1e-6)
    assert len(windows(scorer.tokenizer, texts, 32)) == len(texts)
