"""The loss in chunks is cross-entropy, in value and gradients, and holds no full logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.model import loss
from pipeline.model.bits import IGNORED
from pipeline.model.loss import summed

ROWS, WIDTH, VOCABULARY = 37, 16, 50


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows at a time, and so a last chunk of five."""
    monkeypatch.setitem(loss.LOGITS, "cpu", 8 * VOCABULARY)


def example(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """hidden, weight and bias with gradients, targets of which some are ignored."""
    torch.manual_seed(seed)
    shapes = ((ROWS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    made = [torch.randn(s, dtype=dtype).requires_grad_() for s in shapes]
    targets = torch.randint(VOCABULARY, (ROWS,))
    targets[torch.rand(ROWS) < 0.3] = IGNORED
    return [*made, targets]


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    logits = functional.linear(hidden, weight, bias)
    return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def grads(total: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(total * 0.37, inputs))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), biased=st.booleans())
def test_value_and_gradients_are_cross_entropys_in_float64(seed: int, biased: bool) -> None:
    hidden, weight, bias, targets = example(seed)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    mine = (hidden, weight, bias) if biased else (hidden, weight)
    theirs = exact[: len(mine)]
    ours = summed(hidden, weight, bias if biased else None, targets)
    wanted = plain(exact[0], exact[1], exact[2] if biased else None, targets)
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-6, atol=0)
    for a, b in zip(grads(ours, *mine), grads(wanted, *theirs), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)


def test_the_weights_gradient_is_summed_in_float32_under_bfloat16() -> None:
    """One rounding for each chunk's product; a sum in bfloat16 would lose what small chunks add."""
    hidden, weight, _, targets = example(1)
    exact = [x.detach().bfloat16().double().requires_grad_() for x in (hidden, weight)]
    with torch.autocast("cpu", torch.bfloat16):
        ours = summed(hidden, weight, None, targets)
    assert ours.dtype == torch.float32
    by_hidden, by_weight = grads(ours, hidden, weight)
    wanted = grads(plain(*exact, None, targets), *exact)
    assert (by_hidden.dtype, by_weight.dtype) == (torch.float32, torch.float32)
    error = (by_weight.double() - wanted[1]).norm() / wanted[1].norm()
    assert error < 6e-3  # bfloat16 rounds to 4e-3


def test_double_precision_stays_double() -> None:
    hidden, weight, bias, targets = example(2, torch.float64)
    ours, wanted = (f(hidden, weight, bias, targets) for f in (summed, plain))
    torch.testing.assert_close(ours, wanted, rtol=1e-14, atol=0)
    for a, b in zip(
        grads(ours, hidden, weight, bias), grads(wanted, hidden, weight, bias), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_without_gradients_there_are_none() -> None:
    hidden, weight, _, targets = example(3)
    with torch.no_grad():
        total = summed(hidden, weight, None, targets)
    assert not total.requires_grad
    torch.testing.assert_close(total, plain(hidden, weight, None, targets))


class Largest(TorchDispatchMode):
    """The most numbers that one new tensor held."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


def test_full_logits_never_exist() -> None:
    hidden, weight, _, targets = example(4)
    with Largest() as seen:
        summed(hidden, weight, None, targets).backward()
    assert seen.numbers == VOCABULARY * WIDTH < ROWS * VOCABULARY
