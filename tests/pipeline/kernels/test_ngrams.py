"""N-gram models: probabilities that sum to one and equal a plain Kneser-Ney over tuples, KenLM's
scores of our ARPA, lmplz's discounts, pruning, what was never seen.
"""

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels import ngrams
from pipeline.kernels.ngrams import BEGIN, END, FALLBACK, UNKNOWN, WORDS

VOCABULARY = 5
Gram = tuple[int, ...]
Documents = list[list[int]]

documents = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=12), min_size=1, max_size=8)


def flat(texts: Documents) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([t for text in texts for t in text], np.uint16)
    return ids, np.cumsum([0, *map(len, texts)])


def estimated(texts: Documents, order: int, prune: int = 0) -> list[ngrams.Estimate]:
    stream = ngrams.stream(*flat(texts), VOCABULARY)
    return ngrams.estimate(ngrams.counted(stream, VOCABULARY, order), prune)


def scores(model: ngrams.Model, texts: Documents) -> np.ndarray:
    ids, bounds = flat(texts)
    return ngrams.log_probabilities(model, ids, bounds[:-1], bounds[1:])


class Plain:
    """Interpolated modified Kneser-Ney over tuples of words, straight from the definition."""

    def __init__(self, texts: Documents, order: int, prune: int = 0) -> None:
        self.order, self.outcomes = order, VOCABULARY + 2
        self.count: list[Counter[Gram]] = [Counter() for _ in range(order + 1)]
        for text in texts:
            words = [BEGIN, *(t + WORDS for t in text), END]
            for n in range(1, order + 1):
                self.count[n].update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        self.adjusted = [Counter[Gram]()] + [self._adjusted(n) for n in range(1, order + 1)]
        self.off = [FALLBACK] + [self._discounts(n) for n in range(1, order + 1)]
        self.gone = {g for n in range(3, order + 1) for g, c in self.count[n].items() if c <= prune}

    def _adjusted(self, n: int) -> Counter[Gram]:
        if n == self.order:
            found = Counter(self.count[n])
        else:
            found = Counter(g[1:] for g in self.count[n + 1])
            found |= Counter({g: c for g, c in self.count[n].items() if g[0] == BEGIN and n > 1})
        return Counter({g: c for g, c in found.items() if g != (BEGIN,)})

    def _discounts(self, n: int) -> tuple[float, ...]:
        of = Counter(self.adjusted[n].values())
        if not (of[1] and of[2] and of[3]):
            return FALLBACK
        y = of[1] / (of[1] + 2 * of[2])
        found = tuple(k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3))
        return found if all(0 < d <= k for k, d in enumerate(found, 1)) else FALLBACK

    def p(self, context: Gram, word: int) -> float:
        """Probability of a word after the last words of a context."""
        n = len(context) + 1
        after = {g: a for g, a in self.adjusted[n].items() if g[:-1] == context}
        lower = self.p(context[1:], word) if context else 1 / self.outcomes
        if not after:
            return lower
        whole, own, left = sum(after.values()), 0.0, 0.0
        for g, a in after.items():
            off = a if g in self.gone else self.off[n][min(a, 3) - 1]
            left += off
            own += (a - off) * (g[-1] == word)
        return own / whole + left / whole * lower

    def score(self, text: Sequence[int]) -> float:
        words = [BEGIN, *(t + WORDS if t < VOCABULARY else UNKNOWN for t in text), END]
        return sum(
            np.log(self.p(tuple(words[max(0, i - self.order + 1) : i]), words[i]))
            for i in range(1, len(words))
        )


@settings(max_examples=60)
@given(documents, documents, st.integers(1, 4), st.integers(0, 2))
def test_scores_are_those_of_the_definition(
    learnt: Documents, asked: Documents, order: int, prune: int
) -> None:
    plain = Plain(learnt, order, prune)
    model = ngrams.assemble(estimated(learnt, order, prune))
    asked = [*asked, [VOCABULARY, 0, VOCABULARY + 9]]
    assert scores(model, asked) == pytest.approx([plain.score(t) for t in asked], abs=1e-4)


@settings(max_examples=40)
@given(documents, st.integers(1, 4), st.integers(0, 2))
def test_probabilities_sum_to_one_after_every_context(
    learnt: Documents, order: int, prune: int
) -> None:
    model = ngrams.assemble(estimated(learnt, order, prune))
    known = _table(model)
    for text in learnt[:3]:
        words = [BEGIN, *(t + WORDS for t in text)]
        for cut in range(1, len(words) + 1):
            outcomes = [w for w in range(model.words) if w != BEGIN]
            p = [np.exp(_gain(model, known, [*words[:cut], w])) for w in outcomes]
            assert sum(p) == pytest.approx(1, abs=1e-5)


def _gain(model: ngrams.Model, known: dict[int, int], words: list[int]) -> float:
    """The log probability of the last word after the others, from what a model's two numbers mean."""
    values = model.entries.view(np.float32)
    node = _longest(model, known, words, model.order)
    context = _longest(model, known, words[:-1], model.order - 1)
    return float(values[node, 2]) + float(values[context, 3])


def _table(model: ngrams.Model) -> dict[int, int]:
    keys = model.entries[model.words :, 0].tolist()
    return {key: model.words + at for at, key in enumerate(keys) if key}


def _longest(model: ngrams.Model, known: dict[int, int], words: list[int], most: int) -> int:
    node = words[-1]
    for word in words[::-1][1:most]:
        key = node * model.words + word + 1
        if key not in known:
            return node
        node = known[key]
    return node


def test_a_model_survives_its_packing() -> None:
    model = ngrams.learn(*flat([[0, 1, 2, 0, 1], [1, 2]]), VOCABULARY, 3)
    again = ngrams.unpacked(np.frombuffer(b"".join(model.packed), np.uint64))
    assert (again.order, again.words, again.grams) == (3, VOCABULARY + WORDS, model.grams)
    assert np.array_equal(scores(again, [[0, 1, 4]]), scores(model, [[0, 1, 4]]))


def test_a_model_of_nothing_is_uniform() -> None:
    model = ngrams.learn(*flat([]), VOCABULARY, 5)
    assert scores(model, [[0, 1]]) == pytest.approx([3 * np.log(1 / (VOCABULARY + 2))])


def test_pruning_leaves_out_rare_long_ngrams_only() -> None:
    texts = [[0, 1, 2, 3], [0, 1, 2, 4]]
    whole, cut = estimated(texts, 3), estimated(texts, 3, prune=1)
    assert [int(e.kept.sum()) for e in whole] == [VOCABULARY + 2, 7, 6]
    assert [int(e.kept.sum()) for e in cut] == [VOCABULARY + 2, 7, 2]  # <s> 0 1, and 0 1 2


def test_discounts_fall_back_where_counts_of_counts_say_nothing() -> None:
    assert ngrams.discounts(np.array([1, 1, 1])) == FALLBACK
    assert ngrams.discounts(np.array([], np.int64)) == FALLBACK
    # n1 .. n4 = 4, 2, 1, 1: y = 1/2; the last, 3 - 4/2, is in (0, 3]
    found = ngrams.discounts(np.array([1] * 4 + [2] * 2 + [3] + [4]))
    assert found == pytest.approx((0.5, 1.25, 1.0))


def corpus(seed: int = 0, count: int = 200, vocabulary: int = VOCABULARY) -> Documents:
    """Texts with habits: each word leans on the one before."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        text = [0]
        for step in rng.zipf(1.6, rng.integers(1, 60)):
            text.append(int((text[-1] * 7 + step) % vocabulary))
        out.append(text)
    return out


def named(token: int) -> str:
    return f"t{token}"


@pytest.mark.parametrize(("order", "prune"), [(2, 0), (5, 0), (5, 1)])
def test_kenlm_reads_our_arpa_and_scores_the_same(tmp_path: Path, order: int, prune: int) -> None:
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed: pip install kenlm")
    path = tmp_path / "ours.arpa"
    made = estimated(corpus(), order, prune)
    path.write_text("\n".join(ngrams.arpa(made, named)) + "\n")
    config = kenlm.Config()
    config.show_progress = False
    theirs = kenlm.Model(str(path), config)
    asked = [*corpus(1, 50), [], [VOCABULARY, 0]]
    expected = [theirs.score(" ".join(map(named, text))) * np.log(10) for text in asked]
    assert scores(ngrams.assemble(made), asked) == pytest.approx(expected, abs=1e-4)


@pytest.mark.skipif(shutil.which("lmplz") is None, reason="KenLM's lmplz is not on the path")
@pytest.mark.parametrize("prune", [0, 1])
def test_lmplz_estimates_the_same_from_the_same_text(tmp_path: Path, prune: int) -> None:
    # lmplz takes the last n-gram of each order by its occurrences when it fits discounts, whatever
    # its adjusted count (adjust_counts.cc): in this corpus both fall in the same class
    texts, path, theirs = corpus(1, 300), tmp_path / "text", tmp_path / "theirs.arpa"
    path.write_text("".join(" ".join(map(named, text)) + "\n" for text in texts))
    pad = str(VOCABULARY + 2)  # without <s>
    command = ["lmplz", "-o", "5", "--discount_fallback", "--vocab_pad", pad, "-S", "100M"]
    pruned = ["--prune", "0", "0", str(prune)] if prune else []
    files = ["-T", str(tmp_path), "--text", str(path), "--arpa", str(theirs)]
    subprocess.run([*command, *pruned, *files], check=True, capture_output=True)
    ours, expected = (
        _weights(lines)
        for lines in (
            ngrams.arpa(estimated(texts, 5, prune), named),
            theirs.read_text().split("\n"),
        )
    )
    assert ours.keys() == expected.keys()
    for words, weights in expected.items():
        assert ours[words] == pytest.approx(weights, abs=2e-5), words


def _weights(lines: Iterable[str]) -> dict[str, tuple[float, float]]:
    """n-gram -> (log10 of its probability, of its backoff), from the lines of an ARPA file."""
    rows = [line.split("\t") for line in lines if "\t" in line]
    return {r[1]: (float(r[0]), float(r[2]) if len(r) > 2 else 0.0) for r in rows}


def test_arpa_counts_what_it_lists() -> None:
    lines = list(ngrams.arpa(estimated([[0, 1], [0]], 2), named))
    assert lines[:4] == ["\\data\\", "ngram 1=5", "ngram 2=4", "\n\\1-grams:"]
    assert lines[-1] == "\n\\end\\"
    assert [line.split("\t")[1] for line in lines[4:9]] == ["<unk>", "<s>", "</s>", "t0", "t1"]
    assert "<s> t0" in {line.split("\t")[1] for line in lines[10:14]}
