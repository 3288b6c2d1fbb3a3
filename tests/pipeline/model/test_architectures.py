"""The paper's model has the paper's shape; weights come from the seed and nothing else."""

from pathlib import Path

import pytest
import torch

from pipeline.core.errors import RecipeError
from pipeline.core.schema import END, FIM_PAD
from pipeline.model.architectures import ARCHITECTURES, build, count
from tests.tiny import tiny_model_folder


def test_snowcoder_is_the_papers_model() -> None:
    embedding, attention, ffn = 64000 * 2048, 4 * 2048 * 2048, 3 * 2048 * 5632
    assert count("snowcoder-1.3b", 64000, 8192) == (
        embedding + 24 * (attention + ffn + 2 * 2048) + 2048
    )
    assert count("snowcoder-1.3b", 64000, 8192) == 1_364_297_728
    cfg = ARCHITECTURES["snowcoder-1.3b"](64000, 8192)
    assert (cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim) == (16, 16, 128)
    assert (cfg.max_position_embeddings, cfg.tie_word_embeddings) == (8192, True)


def test_tiny_is_its_twin() -> None:
    large, tiny = (ARCHITECTURES[n](4096, 256) for n in ("snowcoder-1.3b", "snowcoder-tiny"))
    assert count("snowcoder-tiny", 4096, 256) == 1_328_256
    assert tiny.head_dim == 32
    assert tiny.intermediate_size / tiny.hidden_size == large.intermediate_size / large.hidden_size
    assert (tiny.eos_token_id, tiny.pad_token_id) == (END, FIM_PAD)


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
    with pytest.raises(RecipeError, match=r"has 320 ids and 128 places.*400 and 128"):
        build(str(folder), 400, 128, seed=0)
    with pytest.raises(RecipeError, match="320 and 256"):
        build(str(folder), 320, 256, seed=0)


def test_an_unknown_name_gets_a_hint() -> None:
    with pytest.raises(RecipeError, match="did you mean 'snowcoder-tiny'"):
        build("snowcoder-tny", 64, 16, seed=0)
