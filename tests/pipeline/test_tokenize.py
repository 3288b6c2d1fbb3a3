"""Tokens: the same ids from either engine on any text, or gigatoken is refused and says where."""

import importlib.util
import json
import logging
import shutil
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from pipeline import tokenize
from pipeline.core.errors import StageError
from pipeline.core.files import Files, read_shard
from pipeline.core.job import Job, stack
from pipeline.core.runner import Artifact
from pipeline.core.schema import SPECIALS
from pipeline.core.store import Store
from pipeline.tokenizer import SPLIT, learnt
from tests.running import bare_job, stored
from tests.tiny import TEXTS

gigatoken = pytest.mark.skipif(
    importlib.util.find_spec("gigatoken") is None,
    reason="gigatoken is not installed (pip install 'icefloe[fast]')",
)
NONE = pa.table({"uid": pa.array([], pa.string()), "text": pa.array([], pa.large_string())})
CODE = st.text(
    "aeinrst_'s'll(){}[]=+-*/\"\\#:;.,<|>019 \t\r\n\u00e9\u0301\u6f22\u00a0", max_size=60
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A vocabulary with merges across every kind of character of TEXTS."""
    made = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    learnt([*TEXTS, "it's we're  \n\n\t\tself.x = 'sll'\r\n"] * 3, 700).save(str(made))
    return str(made)


def documents(*texts: str, uid: str = "f{:031x}") -> pa.Table:
    uids = pa.array([uid.format(i) for i in range(len(texts))], pa.string())
    return pa.table({"uid": uids, "text": pa.array(texts, pa.large_string())})


def ids(path: str, *texts: str, **settings: Any) -> list[list[int]]:
    return tokenize.encode(documents(*texts), path, "uint16", **settings)["ids"].to_pylist()


def expected(path: str, *texts: str) -> list[list[int]]:
    """By `tokenizers`, one text at a time."""
    return [_opened(path).encode(t, add_special_tokens=False).ids for t in texts]


@cache
def _opened(path: str) -> Tokenizer:
    made = Tokenizer.from_file(path)
    made.encode_special_tokens = True
    return made


def test_every_text_gets_its_ids_in_order(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "BATCH", 200)
    texts = ["", *TEXTS, "", "x" * 500, "x", ""] * 5
    assert ids(path, *texts, engine="tokenizers") == expected(path, *texts)
    made = tokenize.encode(documents(*texts), path, "uint16", "tokenizers")
    assert made["ids"].type == pa.large_list(pa.uint16())
    assert made["keep"].to_pylist() == [True] * len(texts)


@gigatoken
@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(CODE, st.text(st.characters(exclude_categories=["Cs"]))), max_size=6))
def test_the_engines_agree_on_any_text(path: str, texts: list[str]) -> None:
    assert ids(path, *texts, engine="gigatoken") == expected(path, *texts)


@gigatoken
@pytest.mark.parametrize("around", ["'{0}'s{0}s", "1{0} {0}{0}\n{0}x", " {0}s\t{0}\u0301"])
def test_the_engines_agree_on_every_character(path: str, around: str) -> None:
    """All that Unicode has assigned, ideographs and syllables sampled, 64 in a text."""
    every = [chr(c) for c in range(0x20000) if c < 0x3400 or c > 0xFA00 or not c % 50]
    known = [c for c in every if unicodedata.category(c) not in ("Cs", "Cn")]
    texts = [around.format(c) for c in known]
    joined = ["".join(texts[i : i + 64]) for i in range(0, len(texts), 64)]
    names = [f"U+{ord(c):04X}" for c in known[::64]]
    assert tokenize.difference(path, names, pa.array(joined, pa.large_string())) is None


@gigatoken
def test_characters_newer_than_an_engine_are_encoded_by_tokenizers(path: str) -> None:
    texts = ["it's", "\u088f's a\u088fb", "x = 1", "\ua7ce's", "\U000323b0's", ""]
    assert ids(path, *texts, engine="gigatoken") == expected(path, *texts)


@pytest.mark.parametrize("engine", ["tokenizers", pytest.param("gigatoken", marks=gigatoken)])
def test_the_spelling_of_a_special_token_is_split(path: str, engine: str) -> None:
    texts = [*SPECIALS, "a<|endoftext|>b", "".join(SPECIALS)]
    found = ids(path, *texts, engine=engine)
    assert all(len(row) > 3 and min(row) >= len(SPECIALS) for row in found)
    assert found == expected(path, *texts)


@pytest.mark.parametrize("engine", ["tokenizers", pytest.param("gigatoken", marks=gigatoken)])
def test_no_documents_and_empty_ones(path: str, engine: str) -> None:
    assert ids(path, engine=engine) == []
    assert ids(path, "", "", engine=engine) == [[], []]


@pytest.mark.parametrize("engine", ["tokenizers", pytest.param("gigatoken", marks=gigatoken)])
def test_a_published_tokenizer_adds_and_cuts_nothing(
    path: str, tmp_path: Path, engine: str
) -> None:
    made = Tokenizer.from_file(path)
    made.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[0]} $A", special_tokens=[(SPECIALS[0], 0)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=8)
    made.save(str(tmp_path / "tokenizer.json"))
    found = ids(str(tmp_path / "tokenizer.json"), *TEXTS, engine=engine)
    assert found == expected(path, *TEXTS)


@gigatoken
def test_our_own_tokenizer_is_one_that_gigatoken_knows(path: str) -> None:
    assert tokenize.chosen(path, "auto", documents(*TEXTS)) == "gigatoken"
    assert tokenize.chosen(path, "gigatoken", NONE) == "gigatoken"
    assert tokenize.chosen(path, "tokenizers", NONE) == "tokenizers"


def refused(name: str, path: str, folder: Path) -> str:
    """A tokenizer.json that gigatoken cannot read, or reads as another tokenizer."""
    to, made = folder / f"{name}.json", Tokenizer.from_file(path)
    if name == "word pieces":
        made = Tokenizer(models.WordPiece({"[UNK]": 0, "def": 1, "x": 2}, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
    if name == "lower case":
        made.normalizer = normalizers.Lowercase()
    if name == "own split":
        made.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
    if name == "leading space":
        spaced = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(SPLIT), "isolated"), spaced]
        )
    made.save(str(to))
    return str(to)


@gigatoken
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("word pieces", "refuses this tokenizer: Unsupported model type"),
        ("lower case", "refuses this tokenizer: Unsupported normalizer"),
        ("own split", "refuses this tokenizer: Unsupported pre_tokenizer"),
        ("leading space", "differs at probe "),
    ],
)
def test_what_gigatoken_cannot_do_exactly_it_does_not_do(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, why: str
) -> None:
    other = refused(name, path, tmp_path)
    with caplog.at_level(logging.INFO):
        engine = tokenize.chosen(other, "auto", NONE)
    assert engine == "tokenizers"
    assert why in caplog.text
    assert ids(other, *TEXTS, engine=engine) == expected(other, *TEXTS)
    with pytest.raises(StageError, match="engine is gigatoken, but gigatoken"):
        tokenize.chosen(other, "gigatoken", NONE)


@gigatoken
def test_an_audited_document_that_differs_hands_the_shard_to_tokenizers(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = refused("leading space", path, tmp_path)
    table = documents(*TEXTS, uid="000{:029x}")
    made = tokenize.encode(table, other, "uint16", "gigatoken")
    assert made["ids"].to_pylist() == expected(other, *TEXTS)
    assert "differs at 000" in caplog.text
    with pytest.raises(StageError, match=f"differs at {table['uid'][0]}, token 2"):
        tokenize.encode(table, other, "uint16", "gigatoken", strict=True)


@gigatoken
def test_a_document_that_differs_is_named_before_the_run(path: str, tmp_path: Path) -> None:
    assert tokenize.difference(path, ["a", "b"], pa.array(["x", "y"], pa.large_string())) is None
    other = refused("leading space", path, tmp_path)
    texts = pa.array(["", "x", "x(y"], pa.large_string())
    found = tokenize.difference(other, ["a", "b", "c"], texts)
    assert found
    assert found.startswith("gigatoken differs at c, token 1: ")


def test_without_gigatoken_tokenizers_does_it(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    fresh = shutil.copy(path, tmp_path / "tokenizer.json")  # one that this process has not opened
    with caplog.at_level(logging.INFO):
        assert tokenize.chosen(str(fresh), "auto", NONE) == "tokenizers"
    assert "pip install 'icefloe[fast]'" in caplog.text
    with pytest.raises(StageError, match="gigatoken cannot be imported"):
        tokenize.chosen(str(fresh), "gigatoken", NONE)


def box(files: Files, vocabulary: Artifact, store: Store, **settings: Any) -> Job:
    job = bare_job(store, "tokenize")
    tokenize.run(files, vocabulary, tokenize.Config(**settings), job)
    return job


def vocabulary(path: str, store: Store) -> Artifact:
    """A tokenizer step's artifact, with as much of a manifest as tokenize reads."""
    folder = store.folder("tokenizer", "k")
    shutil.copy(path, folder / "tokenizer.json")
    manifest = {"digest": "d", "facts": {"size": Tokenizer.from_file(path).get_vocab_size()}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Artifact(store, "tokenizer", "k")


def test_the_box_writes_each_shards_ids_end_to_end(path: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    texts = [*TEXTS, "", "<|endoftext|>"]
    files = stored([{"text": t, "path": f"{i}.py"} for i, t in enumerate(texts)], store, 2)
    job = box(files, vocabulary(path, store), store)
    assert job.facts["dtype"] == "uint16"
    assert job.facts["tokens"] == sum(map(len, expected(path, *texts)))
    for shard in stack(files, "tokens", job.layers).shards:
        flat = np.fromfile(store.local(str(shard.tokens)), "<u2")
        table = read_shard(store, shard, ["text", "start", "length"]).to_pylist()
        for row, wanted in zip(table, expected(path, *(r["text"] for r in table)), strict=True):
            assert flat[row["start"] : row["start"] + row["length"]].tolist() == wanted
        assert sum(r["length"] for r in table) == len(flat)


@gigatoken
def test_the_engine_changes_no_byte_and_makes_no_shard_again(path: str, tmp_path: Path) -> None:
    rows = [{"text": t, "path": f"{i}.py"} for i, t in enumerate(TEXTS)]
    made = {}
    for engine in ("tokenizers", "gigatoken"):
        store = Store(str(tmp_path / engine))
        job = box(stored(rows, store, 3), vocabulary(path, store), store, engine=engine)
        assert job.facts["engine"] == engine
        made[engine] = job.layers
    assert made["tokenizers"] == made["gigatoken"]
    again = box(stored(rows, store, 3), vocabulary(path, store), store, engine="tokenizers")
    assert again.kept_shards == 3


def test_nothing_to_tokenize_is_no_error(path: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert box(stored([], store), vocabulary(path, store), store).facts["tokens"] == 0
