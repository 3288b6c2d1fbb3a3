"""Models by name, as transformers configurations: every checkpoint is an ordinary folder.

snowcoder-1.3b is Arctic-SnowCoder's (2409.02326 §2.1: Llama 2 with tied embeddings), snowcoder-tiny
its twin for two CPU cores. Knows nothing of data or training.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from pipeline.core.errors import RecipeError, did_you_mean
from pipeline.core.schema import END, FIM_PAD


def build(name: str, vocab_size: int, context: int, seed: int) -> Any:
    """A float32 causal language model on the CPU, in evaluation mode.

    name: one of ARCHITECTURES, with new weights drawn from `seed`; or a local folder, with its own.
    vocab_size, context: ids and places it must have; RecipeError where a folder's has fewer, or for
    an unknown name. The same weights for the same arguments; torch's global seed stays as it is.
    """
    if Path(name).is_dir():
        return _load(Path(name), vocab_size, context)
    if name not in ARCHITECTURES:
        near = did_you_mean(name, ARCHITECTURES)
        raise RecipeError(f"model is {name!r}: no architecture or folder of that name{near}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(ARCHITECTURES[name](vocab_size, context)).eval()


def count(name: str, vocab_size: int, context: int) -> int:
    """Parameters of an architecture, tied ones once; nothing is allocated."""
    with torch.device("meta"):
        model = LlamaForCausalLM(ARCHITECTURES[name](vocab_size, context))
    return sum(p.numel() for p in model.parameters())


def _load(folder: Path, vocab_size: int, context: int) -> Any:
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation="sdpa",
    )
    have = (model.get_input_embeddings().num_embeddings, model.config.max_position_embeddings)
    if have[0] < vocab_size or have[1] < context:
        raise RecipeError(
            f"model {folder} has {have[0]} ids and {have[1]} places; this tokenizer and data need "
            f"{vocab_size} and {context}"
        )
    return model.eval()


def _llama(layers: int, width: int, ffn: int, heads: int, vocab_size: int, context: int) -> Any:
    """Llama 2: RMSNorm, SwiGLU, rotary embeddings over the whole head, no biases; tied here."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        initializer_range=0.02,
        tie_word_embeddings=True,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=FIM_PAD,
        attn_implementation="sdpa",
    )


ARCHITECTURES: dict[str, Callable[[int, int], Any]] = {
    "snowcoder-1.3b": partial(_llama, 24, 2048, 5632, 16),
    "snowcoder-tiny": partial(_llama, 4, 128, 352, 4),
}
"""Name -> (vocabulary, context) -> configuration. The tiny one (ours) takes 0.16 s of two cores
for a step of 8 x 256 tokens and 4,096 ids."""
