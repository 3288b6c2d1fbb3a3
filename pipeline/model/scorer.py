"""Quality scores of whole files by a trained annotator (Arctic-SnowCoder, section 2.2).

A file's score is the mean over its top, middle and bottom windows. Windows of one call are put
into length-sorted batches, so that a call's texts alone decide what is computed together.
Knows nothing of thresholds, languages or Ray.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

_TEXTS = 256
"""Texts tokenised at once; bounds the memory of their encodings (ours)."""
_CPU_BUDGET = 1 << 12
"""Padded tokens a batch: the fastest measured on 2 cores (ours)."""
_GPU_BUDGET = 1 << 17
"""Padded tokens a batch: enough to fill a large GPU (ours)."""


@dataclass(frozen=True)
class Score:
    """How good a file looks: `score` is the mean of its `windows`, top to bottom.

    Each is the probability of the positive class, or the raw output of a one-output regression.
    `truncated`: some of the file lies in no window.
    """

    score: float
    windows: tuple[float, ...]
    truncated: bool


class Scorer:
    """One loaded annotator. `name` and `window` (tokens, with the added ones) as annotator.json."""

    def __init__(
        self, folder: str | Path, *, threads: int | None = None, device: str = "cpu"
    ) -> None:
        """Load `folder` (local, safetensors); float32 on a CPU, float16 elsewhere.

        `threads` sets torch's count for the whole process. ValueError if the folder is none.
        """
        path = Path(folder)
        if not (path / "annotator.json").is_file():
            raise ValueError(f"{path} is no annotator folder: no annotator.json")
        if threads is not None:
            torch.set_num_threads(threads)
        card = json.loads((path / "annotator.json").read_text())
        self.name, self.window = str(card["name"]), int(card["window"])
        self.tokenizer = plain_tokenizer(path / "tokenizer.json")
        self.device = torch.device(device)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32 if self.device.type == "cpu" else torch.float16,
        )
        self.model.to(self.device).eval()
        if self.model.config.num_labels > 2:
            raise ValueError(f"{path} tells {self.model.config.num_labels} classes apart: 1 or 2")

    def score(self, texts: Sequence[str]) -> list[Score]:
        """One Score a text, in order; a text does not depend on the others (up to rounding)."""
        cut = windows(self.tokenizer, texts, self.window)
        flat = [w for parts, _ in cut for w in parts]
        values = iter(probabilities(self.model, flat).tolist())
        out = []
        for parts, truncated in cut:
            of = tuple(next(values) for _ in parts)
            out.append(Score(sum(of) / len(of), of, truncated))
        return out


def plain_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file, for documents: specials in a text are text, nothing is cut."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def windows(
    tokenizer: Tokenizer, texts: Sequence[str], window: int
) -> list[tuple[list[np.ndarray], bool]]:
    """Per text its one to three windows (ids, at most `window` long) and whether some is unseen.

    A text that fits gives one, one that fits twice gives top and bottom, else top, middle, bottom.
    Each is framed by the tokens that the tokenizer adds to a text ([CLS] or END, [SEP]).
    """
    before, after = frame(tokenizer)
    body = window - len(before) - len(after)
    out = []
    for start in range(0, len(texts), _TEXTS):
        encoded = tokenizer.encode_batch_fast(
            list(texts[start : start + _TEXTS]), add_special_tokens=False
        )
        for ids in (e.ids for e in encoded):
            cuts = [[*before, *ids[a : a + body], *after] for a in _starts(len(ids), body)]
            out.append(([np.array(c, dtype=np.int32) for c in cuts], len(ids) > 3 * body))
    return out


def frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after every text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    at = next(k for k in range(len(full)) if full[k : k + len(bare)] == bare)
    return full[:at], full[at + len(bare) :]


def probabilities(model: Any, rows: Sequence[np.ndarray]) -> np.ndarray:
    """The model's value for each window, float64: P(class 1), or the output if it has only one."""
    out = np.zeros(len(rows))
    budget = _CPU_BUDGET if model.device.type == "cpu" else _GPU_BUDGET
    for batch in _batches([len(r) for r in rows], budget):
        out[batch] = _forward(model, [rows[k] for k in batch])
    return out


def padded(
    rows: Sequence[np.ndarray], pad: int, device: torch.device
) -> dict[str, torch.Tensor | None]:
    """`input_ids` and `attention_mask` (rows, longest); no mask where nothing is padded."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
    lengths = np.array([len(r) for r in rows])
    mask = torch.from_numpy(np.arange(width) < lengths[:, None]).to(device, torch.long)
    full = bool((lengths == width).all())
    return {
        "input_ids": torch.from_numpy(ids).to(device),
        "attention_mask": None if full else mask,
    }


@torch.inference_mode()
def _forward(model: Any, rows: Sequence[np.ndarray]) -> np.ndarray:
    logits = model(**padded(rows, model.config.pad_token_id or 0, model.device)).logits.double()
    values = logits[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, 1]
    result: np.ndarray = values.cpu().numpy()
    return result


def _starts(length: int, body: int) -> tuple[int, ...]:
    if length <= body:
        return (0,)
    if length <= 2 * body:
        return (0, length - body)
    return (0, (length - body) // 2, length - body)


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Row numbers, longest first, in batches of at most `budget` padded tokens."""
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
