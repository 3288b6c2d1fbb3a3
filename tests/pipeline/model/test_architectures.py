"""The paper's model has the paper's shape; weights come from the seed and nothing else."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.core.errors import RecipeError
from pipeline.core.schema import END, FIM_PAD
from pipeline.model.architectures import ARCHITECTURES, Scale, build, count, scales
from pipeline.model.optimizer import adamw, clip
from pipeline.model.settings import FitConfig
from tests.tiny import tiny_model_folder


def test_snowcoder_is_the_papers_model() -> None:
    embedding, attention, ffn = 64000 * 2048, 4 * 2048 * 2048, 3 * 2048 * 5632
    assert count("snowcoder-1.3b", 64000, 8192) == (
        embedding + 24 * (attention + ffn + 2 * 2048) + 2048
    )
    assert count("snowcoder-1.3b", 64000, 8192) == 1_364_297_728
    cfg = ARCHITECTURES["snowcoder-1.3b"].config(64000, 8192)
    assert (cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim) == (16, 16, 128)
    assert (cfg.max_position_embeddings, cfg.tie_word_embeddings) == (8192, True)


def test_tiny_is_its_twin() -> None:
    large, tiny = (ARCHITECTURES[n].config(4096, 256) for n in ("snowcoder-1.3b", "snowcoder-tiny"))
    assert count("snowcoder-tiny", 4096, 256) == 1_328_256
    assert tiny.head_dim == 32
    assert tiny.intermediate_size / tiny.hidden_size == large.intermediate_size / large.hidden_size
    assert (tiny.eos_token_id, tiny.pad_token_id) == (END, FIM_PAD)


WIDE = 4096 * 4096


@pytest.mark.parametrize(
    ("name", "vocabulary", "context", "parameters"),
    [
        ("snowcoder-1.3b", 64000, 8192, 1_364_297_728),
        (
            "codegen25-7b",
            51200,
            2048,
            2 * 51200 * 4096 + 32 * (4 * WIDE + 3 * 4096 * 11008 + 8192) + 4096,
        ),
        (
            "codeshell-7b",
            70144,
            8192,
            70144 * 4096
            + 42 * (2 * (WIDE + 4096) + 2 * (4096 * 1024 + 1024) + 8 * WIDE + 5 * 4096 + 4 * 4096)
            + 2 * 4096,
        ),
        ("phi1-1.3b", 51200, 2048, 1_418_270_720),
        ("phi1-350m", 51200, 2048, 356_794_368),
        (
            "crystal-7b",
            32032,
            2048,
            32032 * 4096 + 32 * (4 * WIDE + 3 * 4096 * 10922 + 3 * 4096 + 4 * 4096) + 2 * 4096,
        ),
    ],
)
def test_the_papers_sizes(name: str, vocabulary: int, context: int, parameters: int) -> None:
    assert count(name, vocabulary, context) == parameters


def test_the_papers_shapes() -> None:
    codeshell = ARCHITECTURES["codeshell-7b"].config(70144, 8192)
    assert (codeshell.num_attention_heads, codeshell.num_key_value_heads) == (32, 8)
    assert (codeshell.use_bias, codeshell.sliding_window) == (True, None)
    rotary = [
        ARCHITECTURES[n].config(64, 64).rope_parameters.get("partial_rotary_factor", 1)
        for n in ("codegen25-7b", "codeshell-7b", "phi1-1.3b", "crystal-7b")
    ]
    assert rotary == [1, 1, 0.5, 0.25]


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n.endswith("-tiny")])
def test_plain_transformers_gives_the_trainers_logits(name: str, tmp_path: Path) -> None:
    model = build(name, 320, 64, seed=1)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.arange(40)[None] * 7 % 320
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_crystals_mup_is_the_papers_in_other_units() -> None:
    """Scaled embeddings, logits and attention, rates per matrix: the same losses and weights."""
    model = build("crystal-tiny", 320, 64, seed=1).double()
    of = scales("crystal-tiny", model)
    paper = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in paper.named_parameters():
            weight.div_(of.get(name, Scale()).stored)
    paper.model.embed_tokens.register_forward_hook(lambda m, x, y: y * 14.6)
    for layer in paper.model.layers:
        layer.self_attn.scaling = 1 / 32
    matrices = [p for n, p in paper.named_parameters() if p.ndim > 1 and "embed" not in n]
    others = [p for n, p in paper.named_parameters() if p.ndim > 1 and "embed" in n]
    vectors = [p for p in paper.parameters() if p.ndim < 2]
    rates = {"lr": 0.012, "weight_decay": 0.1}
    groups = [
        {"params": matrices, **rates, "lr": 0.012 * 256 / 128},
        {"params": others, **rates},
        {"params": vectors, "lr": 0.012, "weight_decay": 0.0},
    ]
    cfg = FitConfig(eps=1e-9, clip=0.1)
    theirs = torch.optim.AdamW(groups, betas=cfg.betas, eps=cfg.eps)
    ours = adamw(model, cfg, of)
    for step in range(4):
        ids = torch.randint(320, (2, 33), generator=torch.Generator().manual_seed(step))
        for group in ours.param_groups:
            group["lr"] = 0.012 * group["scale"].lr * group["scale"].stored
        mine = loss(model(input_ids=ids).logits, ids)
        published = loss(paper(input_ids=ids).logits * (2.22 * 256 / 128), ids)
        assert torch.allclose(mine, published, rtol=1e-9, atol=0)
        mine.backward()
        published.backward()
        norm = torch.nn.utils.clip_grad_norm_(paper.parameters(), cfg.clip)
        assert torch.allclose(clip(ours, cfg.clip), norm, rtol=1e-7, atol=0)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    for (name, mine), published in zip(model.named_parameters(), paper.parameters(), strict=True):
        assert torch.allclose(mine, published * of.get(name, Scale()).stored, rtol=1e-6, atol=1e-9)


def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def test_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (build("snowcoder-tiny", 64, 16, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_a_folder_is_continued(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "m")
    model = build(str(folder), 320, 128, seed=0)
    assert model.dtype == torch.float32
    assert build(str(folder), 100, 64, seed=0).get_input_embeddings().num_embeddings == 320
    with pytest.raises(RecipeError, match=r"vocab_size is 320, but the tokenizer has 400 ids"):
        build(str(folder), 400, 128, seed=0)
    with pytest.raises(RecipeError, match=r"its context is 128 tokens, .* sequences of 256"):
        build(str(folder), 320, 256, seed=0)


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(RecipeError, match="did you mean 'snowcoder-tiny'"):
        build("snowcoder-tny", 64, 16, seed=0)
