"""Models by name, as transformers configurations: every checkpoint is an ordinary folder.

The five papers' models, each with a tiny twin for two CPU cores (ours). Crystal's muP is a matter of
how the same weights are initialised and stepped (`Scale`), so that no checkpoint needs converting.
Knows nothing of data or training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PhiConfig,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.utils.logging import disable_progress_bar

from pipeline.core.errors import RecipeError
from pipeline.core.schema import END, FIM_PAD
from pipeline.model import folders


class Scale(NamedTuple):
    """How a weight differs from a plain one: its stored value is `stored` times the one that the
    paper's learning rate, decay and gradient mean, and that rate is `lr` times the schedule's.

    init: standard deviation of the paper's value; None leaves what transformers draws.
    """

    stored: float = 1.0
    lr: float = 1.0
    init: float | None = None


@dataclass(frozen=True)
class Architecture:
    """config: (vocabulary, context) -> transformers configuration. scales: of such a model, the
    weights that are not plain, by name."""

    config: Callable[[int, int], Any]
    scales: Callable[[Any], dict[str, Scale]] = lambda model: {}


def build(name: str, vocab_size: int, context: int, seed: int) -> Any:
    """A float32 causal language model on the CPU, in evaluation mode.

    name: one of ARCHITECTURES, with new weights drawn from `seed`; or a local folder, with its own,
    or new ones where it has a config.json alone. vocab_size, context: ids and places it must have;
    RecipeError where a folder's has fewer or is damaged, or for an unknown name. The same weights
    for the same arguments; torch's global seed stays as it is.
    """
    folders.known(name)
    if Path(name).is_dir():
        return _load(Path(name), vocab_size, context, seed)
    return _drawn(lambda: _named(name, vocab_size, context), seed)


def scales(name: str, model: Any) -> dict[str, Scale]:
    """The weights of a model of that architecture that are not plain; none for a folder."""
    return ARCHITECTURES[name].scales(model) if name in ARCHITECTURES else {}


def count(name: str, vocab_size: int, context: int) -> int:
    """Parameters of an architecture, tied ones once; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in _new(name, vocab_size, context).parameters())


def _named(name: str, vocab_size: int, context: int) -> Any:
    model = _new(name, vocab_size, context)
    _draw(model, scales(name, model))
    return model


def _new(name: str, vocab_size: int, context: int) -> Any:
    config = ARCHITECTURES[name].config(vocab_size, context)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


@torch.no_grad()
def _draw(model: nn.Module, of: Mapping[str, Scale]) -> None:
    """Draw the weights that have a deviation of their own, cut at two of it; scale the others."""
    for name, weight in model.named_parameters():
        scale = of.get(name, Scale())
        if scale.init is not None:
            std = scale.init
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        if scale.stored != 1:
            weight.mul_(scale.stored)


def _load(folder: Path, vocab_size: int, context: int, seed: int) -> Any:
    folders.check(folder, vocab_size, context)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    made: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    disable_progress_bar()
    try:
        if not folders.weights(folder):
            config = AutoConfig.from_pretrained(folder, **local)
            return _drawn(lambda: AutoModelForCausalLM.from_config(config, **made), seed)
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            **local,
            **made,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are told, and refused here
        )
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        raise RecipeError(f"model {folder} cannot be loaded: {str(e).splitlines()[0]}") from e
    _check_loaded(folder, model, told)
    return model.eval()


def _drawn(make: Callable[[], Any], seed: int) -> Any:
    """A new model whose weights come from the seed; torch's global one stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def _check_loaded(folder: Path, model: nn.Module, told: Mapping[str, Any]) -> None:
    """RecipeError for weights that are another architecture's, or that are no numbers."""
    other = {
        "missing": sorted(told["missing_keys"]),
        "of another shape": sorted(name for name, *_ in told["mismatched_keys"]),
        "too many": sorted(told["unexpected_keys"]),
    }
    if found := [f"{len(n)} are {how}, such as {n[0]}" for how, n in other.items() if n]:
        raise RecipeError(
            f"model {folder}: its weights are not of the architecture in its config.json: "
            f"{'; '.join(found)}; give the config.json that they were saved with"
        )
    bad = [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]
    if bad:
        raise RecipeError(
            f"model {folder}: {len(bad)} weights hold NaN or infinity, such as {bad[0]}; start from "
            "an earlier checkpoint"
        )


def _common(layers: int, width: int, ffn: int, heads: int, vocab: int, context: int) -> Any:
    """What all of them are told in the same words; rotary base 10,000."""
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
        "initializer_range": 0.02,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": FIM_PAD,
    }


def _rotary(share: float) -> dict[str, Any]:
    rotary = {"rope_type": "default", "rope_theta": 10000.0}
    return rotary if share == 1 else {**rotary, "partial_rotary_factor": share}


def _llama(*shape: int, tied: bool) -> Any:
    """Llama 2: RMSNorm, SwiGLU, rotary embeddings over the whole head, no biases."""
    return LlamaConfig(
        **_common(*shape),
        num_key_value_heads=shape[3],
        rope_parameters=_rotary(1),
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )


def _codeshell(groups: int, *shape: int) -> Any:
    """CodeShell: GPT-2 (LayerNorm, biases, tanh GELU, dropout 0.1) with `groups` of shared keys and
    rotary embeddings over the whole head: in transformers that is Starcoder2."""
    return Starcoder2Config(
        **_common(*shape),
        num_key_value_heads=groups,
        rope_parameters=_rotary(1),
        norm_epsilon=1e-5,
        sliding_window=None,
        use_bias=True,
        tie_word_embeddings=True,
        embedding_dropout=0.1,
        residual_dropout=0.1,
        attention_dropout=0.1,
    )


def _phi(*shape: int) -> Any:
    """phi-1: attention and MLP side by side, half of each head rotary, dropout 0.1 (2306.11644 §2.3)."""
    return PhiConfig(
        **_common(*shape),
        num_key_value_heads=shape[3],
        rope_parameters=_rotary(0.5),
        layer_norm_eps=1e-5,
        tie_word_embeddings=False,
        resid_pdrop=0.1,
        attention_dropout=0.1,
    )


def _crystal(*shape: int) -> Any:
    """CrystalCoder: LayerNorm, SwiGLU, a quarter of each head rotary: StableLM in transformers.

    That has biases on queries, keys and values alone; theirs on the other matrices are left out (ours).
    """
    return StableLmConfig(
        **_common(*shape),
        num_key_value_heads=shape[3],
        rope_parameters=_rotary(0.25),
        layer_norm_eps=1e-5,
        use_qkv_bias=True,
        tie_word_embeddings=True,
    )


EMBEDDING, OUTPUT, BASE_WIDTH, INIT = 14.6, 2.22, 256, 0.073
"""CrystalCoder's muP (pretrain/params/phase1): embeddings times 14.6; logits times 2.22 / m, matrices'
learning rate times 1 / m and their deviation 0.073 / sqrt(m), m being width / 256."""


def _mup(model: Any) -> dict[str, Scale]:
    """CrystalCoder's muP as scales of an ordinary StableLM with tied embeddings.

    Its embeddings are stored 14.6 times as large; the last norm takes the logits' factor, and the
    queries the step from 1/sqrt(d) to 1/d in attention.
    """
    m = model.config.hidden_size / BASE_WIDTH
    head = model.config.hidden_size // model.config.num_attention_heads
    matrix, out = INIT * m**-0.5, INIT * (2 * m * model.config.num_hidden_layers) ** -0.5
    found = {}
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            found[name] = Scale(EMBEDDING, 1, INIT)
        elif name.startswith("model.norm."):
            found[name] = Scale(OUTPUT / m / EMBEDDING, 1)
        elif weight.ndim > 1:
            last = name.endswith(("o_proj.weight", "down_proj.weight"))
            found[name] = Scale(1, 1 / m, out if last else matrix)
        if "q_proj" in name:
            found[name] = found.get(name, Scale())._replace(stored=head**-0.5)
    return found


ARCHITECTURES: dict[str, Architecture] = {
    "snowcoder-1.3b": Architecture(partial(_llama, 24, 2048, 5632, 16, tied=True)),
    "snowcoder-tiny": Architecture(partial(_llama, 4, 128, 352, 4, tied=True)),
    "codegen25-7b": Architecture(partial(_llama, 32, 4096, 11008, 32, tied=False)),
    "codegen25-tiny": Architecture(partial(_llama, 4, 128, 344, 4, tied=False)),
    "codeshell-7b": Architecture(partial(_codeshell, 8, 42, 4096, 16384, 32)),
    "codeshell-tiny": Architecture(partial(_codeshell, 2, 4, 128, 512, 8)),
    "phi1-1.3b": Architecture(partial(_phi, 24, 2048, 8192, 32)),
    "phi1-350m": Architecture(partial(_phi, 20, 1024, 4096, 16)),
    "phi1-tiny": Architecture(partial(_phi, 4, 128, 512, 4)),
    "crystal-7b": Architecture(partial(_crystal, 32, 4096, 10922, 32), _mup),
    "crystal-tiny": Architecture(partial(_crystal, 4, 128, 341, 4), _mup),
}
"""Name -> architecture: Arctic-SnowCoder (2409.02326 §2.1), CodeGen2.5 (Llama 7B's shape, its card),
CodeShell (its config.json), phi-1 and phi-1-small (2306.11644 §2.3), CrystalCoder (its params.yaml).
A step of 8 x 256 tokens and 4,096 ids takes snowcoder-tiny 0.16 s of two cores."""
