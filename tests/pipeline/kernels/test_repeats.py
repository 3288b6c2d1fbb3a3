"""Words, n-grams and repeated lines are counted as dictionaries of strings count them."""

import re
from collections import Counter

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels.repeats import DUPLICATE, NAMES, TOP, measure


def counted(*texts: str) -> list[dict[str, int]]:
    rows = measure(*flat(pa.array(texts, pa.large_string())))
    return [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()]


def expected(text: str) -> dict[str, int]:
    words = [w.lower() for w in re.findall(r"[A-Za-z0-9_é]+", text)]
    out = {"words": len(words), "word_characters": sum(map(len, words))}
    out["unique_words"] = len(set(words))
    for n in (*TOP, *DUPLICATE):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        out[f"top_{n}_gram" if n in TOP else f"repeated_{n}_grams"] = (
            top(grams) if n in TOP else repeated(grams, words, n)
        )
    lines = ["".join(line.split()) for line in text.split("\n")]
    lines = [line for line in lines if line]
    times = Counter(lines)
    out["filled_lines"] = len(lines)
    out["repeated_lines"] = sum(times[x] > 1 and len(x) > 1 and x != "}," for x in lines)
    return out


def top(grams: list[tuple[str, ...]]) -> int:
    times = Counter(grams)
    best = max(((n, sum(map(len, g))) for g, n in times.items()), default=(1, 0))
    return best[0] * best[1] if best[0] > 1 else 0


def repeated(grams: list[tuple[str, ...]], words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for i, gram in enumerate(grams):
        covered |= set(range(i, i + n)) if gram in seen else set()
        seen.add(gram)
    return sum(len(words[i]) for i in covered)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from("aB1_é .\n},"), max_size=200), max_size=3))
def test_counts_are_those_of_dictionaries(texts: list[str]) -> None:
    assert counted(*texts) == [expected(text) for text in texts]


def test_a_long_text_between_short_ones() -> None:
    texts = ["a b a b", "one two three\n" * 3000 + " ".join(map(str, range(9000))), "a a"]
    assert counted(*texts) == [expected(text) for text in texts]
