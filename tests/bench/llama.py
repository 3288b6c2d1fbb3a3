"""A Llama of 100 million random weights and a tokenizer trained on this Python's own library.

As a published model folder, and the same weights as GGUF for llama.cpp. Nothing ends an answer early:
there is no end token, and the special tokens' rows are 0, so that a greedy choice never falls on one.
Knows nothing of servers. `python -m tests.bench.llama FOLDER FILE.gguf` where `gguf` is installed.
"""

import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pipeline.core.schema import SPECIALS

LAYERS, WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 12, 768, 2048, 12, 4, 32_000, 2048
LEARNT_FROM = 12_000_000
"""Bytes of source that the tokenizer is trained on."""


def folder(path: Path) -> Path:
    """The published folder, made unless it is there."""
    if not (path / "icefloe.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        _tokenizer(path)
        _weights(path)
        card = {"name": path.name, "model": "llama-100m", "infill": False, "phase": "random"}
        (path / "icefloe.json").write_text(json.dumps(card))
    return path


def prompts(path: Path, count: int, tokens: int, seed: int) -> list[str]:
    """`count` pieces of source, each `tokens` long and none like another, that encode to what they were cut from."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    found = dict[str, None]()
    for text in _sources(seed):
        ids = tokenizer.encode(text[: tokens * 40])
        if len(ids) >= 2 * tokens:
            piece = text[ids.offsets[tokens // 2][0] : ids.offsets[tokens // 2 + tokens - 1][1]]
            if len(tokenizer.encode(piece)) == tokens:
                found[piece] = None
        if len(found) == count:
            return list(found)
    raise SystemExit(f"this Python's library has only {len(found)} prompts of {tokens} tokens")


def _sources(seed: int) -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)
    for k in np.random.default_rng(seed).permutation(len(paths)):
        try:
            yield paths[k].read_text()
        except UnicodeError:  # the library tests itself with such files
            continue


def _tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_some(LEARNT_FROM), trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT}
    (path / "tokenizer_config.json").write_text(json.dumps(told))


def _some(size: int) -> Iterator[str]:
    taken = 0
    for text in _sources(0):
        if (taken := taken + len(text)) > size:
            return
        yield text


def _weights(path: Path) -> None:
    torch.manual_seed(0)
    cfg = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(cfg).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[: len(SPECIALS)] = 0
    model.generation_config = GenerationConfig(do_sample=False)
    model.save_pretrained(path)


def write_gguf(path: Path, out: Path) -> None:
    """The same model in float32 as llama.cpp reads it."""
    from gguf import GGUFWriter

    writer = GGUFWriter(str(out), "llama")
    _describe(writer)
    _vocabulary(writer, path)
    for name, tensor in _tensors(load_file(path / "model.safetensors")):
        writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)


def _vocabulary(writer: Any, path: Path) -> None:
    bpe = json.loads((path / "tokenizer.json").read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in SPECIALS else 1 for t in tokens])  # control, normal
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in bpe["merges"]])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _tensors(weights: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    for k in range(LAYERS):
        for theirs, name in NAMES.items():
            tensor = weights[f"model.layers.{k}.{theirs}.weight"]
            if name in ("attn_q", "attn_k"):  # llama.cpp rotates neighbours, transformers halves
                tensor = _interleaved(tensor, HEADS if name == "attn_q" else KV_HEADS)
            yield f"blk.{k}.{name}.weight", tensor


def _interleaved(tensor: Any, heads: int) -> Any:
    rows, columns = tensor.shape
    halves = tensor.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
