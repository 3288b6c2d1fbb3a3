"""Documents packed into one sequence are as if each were alone, for every architecture."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.model import masks
from pipeline.model.architectures import ARCHITECTURES, build
from pipeline.model.batches import Batches
from pipeline.model.bits import IGNORED
from pipeline.model.objective import Objective
from tests.packed import CONFIG, LENGTH, packed, train

TINY = [n for n in ARCHITECTURES if n.endswith("-tiny")]
LENGTHS = [[5, 1, 17, 9], [12, 20]]


def rows(vocabulary: int = 320) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sequences of 32 places: ids, and the documents of LENGTHS."""
    ids = torch.randint(vocabulary, (2, 32), generator=torch.Generator().manual_seed(1))
    documents = [torch.repeat_interleave(torch.arange(len(n)), torch.tensor(n)) for n in LENGTHS]
    return ids, torch.stack(documents).int()


def alone(model: torch.nn.Module, ids: torch.Tensor) -> list[torch.Tensor]:
    """The logits of each document as a sequence of its own, in order."""
    parts = [p for row, n in zip(ids, LENGTHS, strict=True) for p in row.split(n)]
    return [model(input_ids=p[None]).logits[0] for p in parts]


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_document_sees_itself_alone(name: str) -> None:
    model = build(name, 320, 64, seed=1)
    ids, documents = rows()
    together = model(input_ids=ids, **masks.inside(documents, model)).logits
    wanted = torch.cat(alone(model, ids))
    assert (together.flatten(0, 1) - wanted).abs().max() < 3e-5  # of logits up to 10
    assert (model(input_ids=ids).logits.flatten(0, 1) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("name", TINY)
def test_the_loss_is_the_sum_of_the_documents(name: str) -> None:
    model = build(name, 320, 64, seed=1)
    objective = Objective(model)
    ids, documents = rows()
    parts = [p[None] for row, n in zip(ids, LENGTHS, strict=True) for p in row.split(n)]
    wanted = sum(objective(p, p) for p in parts)
    torch.testing.assert_close(objective(ids, ids, documents), wanted, rtol=1e-5, atol=0)
    objective(ids, ids, documents).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_blocks_of_flex_attention_are_the_same_mask() -> None:
    model = build("snowcoder-tiny", 320, 64, seed=1)
    documents = rows()[1]
    dense = masks.inside(documents, model)["attention_mask"]
    with masks.flexible(model, True):
        blocks = masks.inside(documents, model)["attention_mask"]
        places = torch.arange(32)
        made = [
            [[bool(blocks.mask_mod(b, 0, q, k)) for k in places] for q in places] for b in range(2)
        ]
    assert torch.equal(torch.tensor(made), dense[:, 0])
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["snowcoder-tiny", "codegen25-tiny"])
def test_flex_attention_computes_what_dense_masks_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients, by its plain mathematics: torch refuses it a backward pass on a CPU, since
    the compiled one is missing."""
    refusing = import_module("torch.nn.attention.flex_attention")
    monkeypatch.setattr(refusing, "_validate_device", lambda *_: None)
    model = build(name, 320, 64, seed=1)
    objective, (ids, documents) = Objective(model), rows()
    dense = (objective(ids, ids, documents), objective(ids, ids))
    sum(dense).backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    with masks.flexible(model, True), torch.compiler.set_stance("force_eager"):
        assert model.config._attn_implementation == masks.FLEX
        flex = (objective(ids, ids, documents), objective(ids, ids))  # held-out text has no mask
        sum(flex).backward()
    torch.testing.assert_close(flex, dense, rtol=1e-5, atol=0)
    for name, p in model.named_parameters():
        assert (p.grad - wanted[name]).abs().max() < 1e-4 * wanted[name].abs().max(), name


@pytest.mark.parametrize("name", ["codeshell-tiny", "crystal-tiny"])
def test_dropout_and_models_without_it_keep_dense_masks(name: str) -> None:
    model = build(name, 320, 64, seed=1)
    with masks.flexible(model, True):
        assert model.config._attn_implementation == "sdpa"
        ids, documents = rows()
        assert Objective(model)(ids, ids, documents).isfinite()


def test_positions_restart_and_padding_is_a_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 2, 2, -1, -1]], dtype=torch.int32)
    assert masks.positions(documents).tolist() == [[0, 1, 2, 0, 0, 1, 0, 1]]
    labels = torch.tensor([[10, 11, 12, 13, 14, 15, IGNORED, IGNORED]])
    x = IGNORED
    assert masks.spared(labels, documents).tolist() == [[x, 11, 12, x, x, 15, x, x]]


def test_targets_of_a_step_are_those_that_count(tmp_path: Path) -> None:
    index, files = packed(tmp_path)
    fed = Batches(index, files, LENGTH, CONFIG.batch, seed=1, spm_rate=0.5, documents=True)
    for step in range(fed.steps):
        batch = fed.batch(step)
        assert batch.documents is not None
        labels = masks.spared(torch.from_numpy(batch.labels), torch.from_numpy(batch.documents))
        assert fed.targets(step) == int(np.sum(labels.numpy() != IGNORED))


def test_a_run_with_masks_differs_and_is_finite(tmp_path: Path) -> None:
    masked = train(folder=tmp_path / "masked", mask_documents=True)
    plain = train(folder=tmp_path / "plain")
    assert 0 < masked["loss_last"] != plain["loss_last"]
