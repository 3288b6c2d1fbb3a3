"""Pairs and keepers against brute force, and LSH recall against datasketch's own index."""

import numpy as np
import pyarrow as pa
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels import neighbours as near
from pipeline.kernels import shingles

EDGES = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 11), st.sampled_from([0.5, 0.7, 0.75, 0.9])),
    max_size=40,
)


def packed(edges: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs as the kernels take them: less wanted above, sorted."""
    best = {(max(a, b), min(a, b)): s for a, b, s in edges if a != b}
    keys = sorted(best)
    return np.array([(b << 32) | a for b, a in keys], np.uint64), np.array(
        [best[k] for k in keys], np.float32
    )


@given(EDGES)
def test_a_document_goes_only_by_a_kept_one_and_only_then(
    edges: list[tuple[int, int, float]],
) -> None:
    pair, similarity = packed(edges)
    half, measured = len(pair) // 2, np.arange(len(pair)) % 2 == 0
    kept = near.everyone(12)
    for part in (slice(half), slice(half, None)):
        near.keepers(pair[part], similarity[part], measured[part], 0.7, kept)
    gone = {}
    for second in range(12):
        twins = [
            (s, -a)
            for p, s in zip(pair.tolist(), similarity.tolist(), strict=True)
            if p >> 32 == second and s >= np.float32(0.7)
            for a in [p & 0xFFFFFFFF]
            if a not in gone
        ]
        if twins:
            gone[second] = -max(twins)[1]
            assert kept.value[second] == np.float32(max(twins)[0])
    assert kept.keeper.tolist() == [gone.get(d, d) for d in range(12)]


@given(EDGES, st.lists(st.booleans(), min_size=66, max_size=66))
def test_what_is_settled_stays_settled_whatever_the_measuring_says(
    edges: list[tuple[int, int, float]], answers: list[bool]
) -> None:
    pair, _ = packed(edges)
    kinds = np.array([near.YES if i % 2 else near.MAYBE for i in range(len(pair))], np.uint8)
    state, final = np.zeros(12, np.uint8), np.zeros(12, np.uint8)
    near.settle(pair, kinds, state)
    measured = np.where(
        kinds == near.YES, near.YES, np.where(answers[: len(pair)], near.YES, near.NO)
    ).astype(np.uint8)
    near.settle(pair, measured, final)
    assert not (final == near.OPEN).any()
    known = state != near.OPEN
    assert (final[known] == state[known]).all()


@given(st.integers(0, 2**32), st.integers(2, 30), st.integers(0, 5), st.booleans())
def test_pairs_are_all_that_share_a_band(
    seed: int, documents: int, fixed: int, inside: bool
) -> None:
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 3, (documents, 16), dtype=np.uint8)
    order = rng.permutation(documents).astype(np.uint32)
    pair, agree = near.pairs(
        made, order, range(4), 4, least=6, sure=16, cap=1000, fixed=fixed, inside=inside
    )
    parts = [
        near.pairs(
            made,
            order,
            range(4),
            4,
            least=6,
            sure=16,
            cap=1000,
            fixed=fixed,
            inside=inside,
            part=(n, 3),
        )[0]
        for n in range(3)
    ]
    assert np.array_equal(np.unique(np.concatenate(parts)), pair)
    obvious = {}
    for second in range(documents):
        for first in range(second):
            same = made[order[first]] == made[order[second]]
            allowed = second >= fixed and (first < fixed or inside)
            if allowed and same.sum() >= 6 and same.reshape(4, 4).all(axis=1).any():
                obvious[(second << 32) | first] = same.sum()
    assert dict(zip(pair.tolist(), agree.tolist(), strict=True)) == obvious


def test_a_hot_bucket_costs_its_cap_times_its_size() -> None:
    rng = np.random.default_rng(0)
    made = rng.integers(0, 256, (1000, 64), dtype=np.uint8)
    made[:, :4] = 7
    order = np.arange(1000, dtype=np.uint32)
    pair, _ = near.pairs(made, order, range(1), 4, least=0, sure=60, cap=8)
    assert len(pair) == 8 * 1000 - 8 * 9 // 2


def test_recall_is_datasketchs_at_the_same_bands() -> None:
    rng = np.random.default_rng(3)
    texts = []
    for _ in range(150):
        words = [f"w{i}" for i in rng.integers(0, 10**6, 200)]
        changed = [w if rng.random() > 0.03 else f"v{rng.integers(10**6)}" for w in words]
        texts += [" ".join(words), " ".join(changed)]
    theirs = MinHashLSH(num_perm=256, params=(39, 6))
    for number, text in enumerate(texts):
        sketch = MinHash(256)
        grams = text.split()
        sketch.update_batch([" ".join(grams[i : i + 5]).encode() for i in range(196)])
        if number % 2 == 0:
            theirs.insert(number, sketch)
        else:
            texts[number] = (text, number - 1 in theirs.query(sketch))  # type: ignore[call-overload]
    column = pa.array([t if isinstance(t, str) else t[0] for t in texts], pa.large_string())
    made = shingles.sketches(*flat(column), 5, *shingles.permutations(256, 1))
    pair, _ = near.pairs(
        made, np.arange(300, dtype=np.uint32), range(39), 6, least=0, sure=300, cap=64
    )
    first, second = near.split(pair)
    ours = set(second[second - first == 1].tolist())
    found_there = sum(t[1] for t in texts if not isinstance(t, str))
    assert len(ours & set(range(1, 300, 2))) >= 0.97 * found_there > 130


def test_exact_similarity_is_that_of_the_sets() -> None:
    sets = [[1, 2, 3, 4], [2, 3, 4, 5, 9], [], [7]]
    grams = np.array([g for s in sets for g in s], np.uint32)
    bounds = np.cumsum([0, *map(len, sets)])
    left, right = np.array([0, 0, 2, 3]), np.array([1, 3, 2, 3])
    assert near.jaccard(left, right, grams, bounds).tolist() == [0.5, 0.0, 0.0, 1.0]
