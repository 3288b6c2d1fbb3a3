"""Drawing tokens: every rule by its definition, each row by its own, alone as in company."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.engine import Sampling
from pipeline.model.sampling import likeliest, pick

SIZE = 300
SETTINGS = (
    Sampling(temperature=0),
    Sampling(),
    Sampling(temperature=0.3, top_k=5),
    Sampling(temperature=1.7, top_p=0.6, min_p=0.01),
    Sampling(min_p=0.2),
    Sampling(top_p=0.999),
    Sampling(presence_penalty=2, frequency_penalty=1, logit_bias={3: 4.0, 9: -100}),
)


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, SIZE)) * 3).float()


def kept(of: torch.Tensor, sampling: Sampling) -> set[int]:
    """The tokens that 2,000 evenly spread draws take."""
    count = 2000
    draws = [(k + 0.5) / count for k in range(count)]
    found = pick(of.expand(count, -1), [sampling] * count, [{}] * count, draws)
    return {p.token for p in found}


@given(st.lists(st.sampled_from(SETTINGS), min_size=1, max_size=6), st.integers(0, 99))
def test_a_row_alone_is_a_row_in_company(settings: list[Sampling], seed: int) -> None:
    of = logits(len(settings), seed)
    counts = [{r + 3: 2, r + 4: 1} for r in range(len(settings))]
    uniform = np.random.default_rng(seed).random(len(settings)).tolist()
    together = pick(of, settings, counts, uniform)
    for r, got in enumerate(together):
        (alone,) = pick(of[r : r + 1], settings[r : r + 1], counts[r : r + 1], uniform[r : r + 1])
        assert (got.token, got.top) == (alone.token, alone.top)
        assert got.logprob == pytest.approx(alone.logprob, abs=1e-5)
        assert got.logprob == pytest.approx(float(of[r].log_softmax(-1)[got.token]), abs=1e-5)


def test_each_rule_keeps_what_it_says() -> None:
    of = logits(1)
    p = of[0].double().softmax(-1).numpy()
    order = np.argsort(-p)
    assert kept(of, Sampling(top_k=4)) == set(order[:4].tolist())
    nucleus = order[: int(np.searchsorted(np.cumsum(p[order]), 0.7)) + 1]
    assert kept(of, Sampling(top_p=0.7)) == set(nucleus.tolist())
    near = np.flatnonzero(p >= 0.1 * p.max())
    assert kept(of, Sampling(min_p=0.1)) == set(near.tolist())
    cool = (of[0].double() / 0.5).softmax(-1).numpy()
    assert kept(of, Sampling(temperature=0.5, min_p=0.1)) == set(
        np.flatnonzero(cool >= 0.1 * cool.max()).tolist()
    )
    # top_p counts from what top_k left.
    four = p[order[:4]] / p[order[:4]].sum()
    left = order[: int(np.searchsorted(np.cumsum(four), 0.7)) + 1]
    assert kept(of, Sampling(top_k=4, top_p=0.7)) == set(left.tolist())


def test_a_flat_distribution_is_cut_behind_the_head_too() -> None:
    of = torch.zeros(1, 600)
    assert len(kept(of, Sampling(top_p=0.5))) in (300, 301)  # a sum of 1/600 rounds
    assert len(kept(of, Sampling(min_p=0.5))) == 600


def test_bias_and_penalties_by_definition() -> None:
    of = logits(1)
    s = Sampling(temperature=0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={7: 1.5})
    seen = {7: 3, 11: 1}
    want = of[0].clone()
    want[7] += 1.5 - 0.5 - 3 * 0.25
    want[11] -= 0.5 + 0.25
    for token in (7, 11):
        close = of.clone()
        close[0, 100] = close[0].max() + 1
        close[0, token] = close[0, 100] - (want[token] - of[0, token])
        for off, chosen in ((-1e-3, 100), (1e-3, token)):
            moved = close.clone()
            moved[0, token] += off
            assert pick(moved, [s], [seen], [0.0])[0].token == chosen
    (banned,) = pick(
        of, [Sampling(temperature=0, logit_bias={int(of.argmax()): -100})], [{}], [0.0]
    )
    assert banned.token == int(of[0].argsort(descending=True)[1])


def test_the_likeliest_are_told_in_order() -> None:
    values = logits(3).log_softmax(-1)
    none, two, zero = likeliest(values, [None, 2, 0])
    assert (none, zero) == (None, {})
    assert two is not None
    assert list(two) == values[1].argsort(descending=True)[:2].tolist()
    assert list(two.values()) == pytest.approx(values[1].topk(2).values.tolist())
    assert likeliest(values, [None, 0, None]) == [None, {}, None]


def test_next_to_no_heat_and_any_count_are_numbers_too() -> None:
    of = logits(1)
    for odd in (Sampling(temperature=5e-324), Sampling(temperature=5e-324, top_p=0.5)):
        assert kept(of, odd) == {int(of.argmax())}
    (got,) = pick(of, [Sampling(top_k=10**400)], [{}], [0.3])
    (want,) = pick(of, [Sampling(top_k=SIZE)], [{}], [0.3])
    assert got == want
