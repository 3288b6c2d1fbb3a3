"""Tiny real parts for tests: a byte-level tokenizer, a random Llama, a random annotator.

Each function writes an ordinary Hugging Face folder, in well under a second, the same bytes
every time.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from pipeline.core.schema import END, FIM_PAD, REPO_NAME, SPECIALS, specials

TEXTS = (
    "def add(a, b):\n    return a + b\n",
    "def greet(name: str) -> str:\n    return f'Grüße, {name} 🧊'\n",
    "for i in range(10):\n    print(i, i * i)\n",
    "class Point:\n    def __init__(self, x, y):\n        self.x, self.y = x, y\n",
    "function sum(xs) {\n  return xs.reduce((a, b) => a + b, 0);\n}\n",
)
"""Code in two languages, with characters of two and four UTF-8 bytes."""


def tiny_tokenizer(path: Path, size: int = 320, masks: int = 0) -> Tokenizer:
    """A byte-level BPE of `size` entries, special tokens first, written to the file `path`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials(masks)),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def tiny_model_folder(
    path: Path,
    infill: bool = True,
    context: int = 128,
    seed: int = 0,
    masks: int = 0,
    heads: int = 4,
) -> Path:
    """A published model folder: a random Llama of 2 layers x 32, its tokenizer and card; with `masks`
    one that infills as CodeGen2 does, with one of `heads` one whose heads are large enough for vLLM."""
    tokenizer = tiny_tokenizer(path / "tokenizer.json", masks=masks)
    cfg = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 2, 1),
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.5,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=FIM_PAD,
    )
    _write(path, _seeded(LlamaForCausalLM, cfg, seed), context)
    card = {"model": "tiny", "phase": "phase1", "step": 3, "tokens": 768, "data": "0" * 12}
    (path / "icefloe.json").write_text(
        json.dumps(card | {"infill": infill, "spans": masks > 0}, indent=2)
    )
    return path


def tiny_annotator_folder(path: Path, window: int = 32, labels: int = 2, seed: int = 0) -> Path:
    """An annotator folder: a random BERT of 1 layer x 32, END leading every window."""
    tokenizer = tiny_tokenizer(path / "tokenizer.json")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[END]} $A", special_tokens=[(SPECIALS[END], END)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    cfg = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=window,
        type_vocab_size=1,
        pad_token_id=FIM_PAD,
        num_labels=labels,
        initializer_range=0.5,
    )
    _write(path, _seeded(BertForSequenceClassification, cfg, seed), window)
    card = {"name": "tiny-annotator", "window": window, "auc": {"auc": 0.5}}
    (path / "annotator.json").write_text(json.dumps(card, indent=2))
    return path


def _seeded(kind: type[PreTrainedModel], cfg: object, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(cfg).eval()


def _write(path: Path, model: PreTrainedModel, length: int) -> None:
    model.save_pretrained(path)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIALS[END],
        "cls_token": SPECIALS[END],
        "pad_token": SPECIALS[FIM_PAD],
        "mask_token": SPECIALS[REPO_NAME],
        "model_max_length": length,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
