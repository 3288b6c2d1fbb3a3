"""The vocabulary: its special tokens, where texts are cut, and a sample that depends on no order."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import tokenizer
from pipeline.core.errors import StageError
from pipeline.core.schema import MASK, SPECIALS, digest, specials
from pipeline.core.store import Store
from tests.running import bare_job, stored
from tests.tiny import TEXTS


def test_learning_depends_on_no_order_and_puts_special_tokens_first() -> None:
    made = tokenizer.learnt(list(TEXTS), 300)
    assert made.to_str() == tokenizer.learnt(list(reversed(TEXTS)), 300).to_str()
    assert [made.token_to_id(s) for s in SPECIALS] == list(range(len(SPECIALS)))
    assert made.get_vocab_size() == 300


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(text: str) -> None:
    made = tokenizer.learnt(list(TEXTS), tokenizer.BYTES + len(SPECIALS))
    assert made.decode(made.encode(text).ids, skip_special_tokens=False) == text


def test_masks_come_behind_the_specials_that_every_tokenizer_has() -> None:
    made = tokenizer.learnt(["x = 1\n" * 9], 400, masks=20)
    assert [made.id_to_token(i) for i in range(len(specials(20)))] == list(specials(20))
    assert specials(20)[: len(SPECIALS)] == SPECIALS == specials()
    assert made.token_to_id("<mask_1>") == MASK
    assert made.token_to_id("<mask_21>") is None
    assert tokenizer.learnt(["x = 1\n" * 9], 400).token_to_id("<sep>") is None


def test_digits_stand_alone_and_indentation_is_one_run() -> None:
    made = tokenizer.learnt(["x = 1234\n        return 1234\n" * 9], 500)
    tokens = made.encode("        return 1234").tokens
    assert tokens[-4:] == ["1", "2", "3", "4"]
    assert "\u0120" * 7 in tokens


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 400))
def test_the_sample_fills_the_budget_with_the_fewest_documents(
    sizes: list[int], budget: int
) -> None:
    table = pa.table({"uid": [digest(str(i)) for i in range(len(sizes))], "bytes": sizes})
    places = tokenizer.pick(table)
    limit = tokenizer.threshold(places, budget)
    text = pa.array([str(i) for i in range(len(sizes))])
    taken = tokenizer.sample(table.append_column("text", text), limit)["text"].to_pylist()
    total = sum(sizes[int(i)] for i in taken)
    last = max(taken, key=lambda i: places["place"][int(i)].as_py())
    assert total >= budget or len(taken) == len(sizes)
    assert total - sizes[int(last)] < budget


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"size": 262}, "size is 262: 263 or more"),
        ({"sample": 0}, "sample is 0 bytes: 1 or more"),
        ({"size": 263, "masks": 3}, "268 or more"),
        ({"masks": -1}, "masks is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tokenizer.Config(**settings)


def test_the_box_learns_the_same_from_any_shards(tmp_path: Path) -> None:
    made = []
    for shards in (1, 3):
        store = Store(str(tmp_path / str(shards)))
        rows = [{"text": t, "path": f"{i}.py"} for i, t in enumerate(TEXTS)]
        job = bare_job(store, "tokenizer")
        tokenizer.run(stored(rows, store, shards), tokenizer.Config(size=300, sample=120), job)
        made.append((job.folder / "tokenizer.json").read_bytes())
        assert job.facts["size"] == 300
    assert made[0] == made[1]


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(StageError, match="no document to learn from"):
        tokenizer.run(stored([], store), tokenizer.Config(), bare_job(store, "tokenizer"))


def test_a_named_tokenizer_without_our_special_tokens_is_refused(tmp_path: Path) -> None:
    made = tokenizer.learnt(list(TEXTS), 300)
    made.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.taken(str(tmp_path)).get_vocab_size() == 300
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace("<|fim_pad|>", "<|pad|>"))
    with pytest.raises(StageError, match=r"<\|fim_pad\|> is not where Icefloe needs it"):
        tokenizer.taken(str(tmp_path))
