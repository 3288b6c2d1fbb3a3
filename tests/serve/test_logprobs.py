"""Tokens as they are shown: their bytes together are the text, and they stand where it says."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from serve.logprobs import LOWEST, Reader, Token, columns, rows, spell
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@given(st.text())
def test_tokens_are_the_text_and_stand_in_it(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(spell(tokenizer, i).raw for i in ids) == text.encode()
    shown = columns(tokenizer, [Token(i, -1.0, {}) for i in ids], Reader())
    for token, at in zip(shown["tokens"], shown["text_offset"], strict=True):
        assert token.startswith("bytes:\\x") or text.startswith(token, at)


@given(st.binary(max_size=12))
@example(b"\xed\xa0")  # half a surrogate: two broken characters, which the next byte decides
def test_broken_characters_are_counted_as_they_are_decoded(
    tokenizer: Tokenizer, raw: bytes
) -> None:
    byte = {spell(tokenizer, i).raw: i for i in range(tokenizer.get_vocab_size())}
    reader, ids = Reader(), [byte[raw[k : k + 1]] for k in range(len(raw))]
    places = [reader.place(spell(tokenizer, i).raw) for i in ids]
    assert places == sorted(places)
    whole = tokenizer.decode([*ids, *tokenizer.encode("x").ids])
    assert whole[reader.place(b"x") :] in ("x", "\ufffdx", "\ufffd\ufffdx")


def test_both_shapes_hold_what_json_can(tokenizer: Tokenizer) -> None:
    a, ice = tokenizer.encode("a").ids[0], tokenizer.encode("🧊").ids[0]
    tokens = [Token(a, None, None), Token(ice, float("-inf"), {a: -0.5})]
    assert columns(tokenizer, tokens, Reader()) == {
        "tokens": ["a", "bytes:\\xf0"],
        "token_logprobs": [None, LOWEST],
        "top_logprobs": [None, {"a": -0.5, "bytes:\\xf0": LOWEST}],
        "text_offset": [0, 1],
    }
    first, second = rows(tokenizer, tokens)["content"]
    assert (first["token"], first["logprob"], first["top_logprobs"]) == ("a", None, [])
    assert (second["bytes"], second["top_logprobs"][0]["logprob"]) == ([0xF0], -0.5)
