"""Quality scores of whole files by a trained annotator (Arctic-SnowCoder, section 2.2).

A file's score is the mean over its top, middle and bottom windows. Texts are tokenised a few
hundred at a time, the next ones while the encoder works, and their windows put into length-sorted
batches, so that a call's texts alone decide what is computed together. Knows nothing of
thresholds, languages or Ray.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from transformers import AutoModelForSequenceClassification

from pipeline.model.lighter import eight_bit, first_only, packed

_TEXTS = 256
"""Texts tokenised at once; bounds the memory of their encodings (ours)."""
_CPU_BUDGET = 1 << 12
"""Padded tokens a batch: the fastest measured on 2 cores for small encoders (ours)."""
_CPU_WORK = 4e9
"""Multiplications a batch on a CPU, where _CPU_BUDGET is more: a full window of a BERT-base fills
two cores by itself, and its activations stay in the cache (ours)."""
_GPU_BUDGET = 1 << 17
"""Padded tokens a batch: enough to fill a large GPU (ours)."""
_STEP = 16
"""Batches are padded to a multiple of so many tokens and have a power of two of rows: oneDNN keeps a
plan of every product's shape, 300 MB after 2,800 short files where each length is one (ours, two
layers of a MiniLM)."""


@dataclass(frozen=True)
class Score:
    """How good a file looks: `score` is the mean of its `windows`, top to bottom.

    Each is the probability of the positive class, or the raw output of a one-output regression.
    `truncated`: some of the file lies in no window. `spans`: the places that were read, from a
    character up to another, if that was asked; `tokens`: how many were read, added ones included.
    """

    score: float
    windows: tuple[float, ...]
    truncated: bool
    spans: tuple[tuple[int, int], ...] = ()
    tokens: int = 0


class Cut(NamedTuple):
    """A text's windows: `rows` of ids, whether some of it lies in none, and where each lies."""

    rows: list[np.ndarray]
    truncated: bool
    spans: tuple[tuple[int, int], ...]


class Scorer:
    """One loaded annotator. `name`, `column` and `window` (tokens, with the added ones) as its `card`;
    `labels` are its classes, in order, the second the positive one; none for a regression."""

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        device: str = "cpu",
        precision: Literal["exact", "int8"] = "exact",
    ) -> None:
        """Load `folder` (local, safetensors); float32 on a CPU, bfloat16 elsewhere.

        `threads` sets torch's count for the whole process. precision: int8 multiplies in 8 bits, one
        window at a time, since its rounding depends on all that is multiplied together. ValueError
        if the folder is none, or int8 is asked for where there is none.
        """
        path = Path(folder)
        if not (path / "annotator.json").is_file():
            raise ValueError(f"{path} is no annotator folder: no annotator.json")
        if threads is not None:
            torch.set_num_threads(threads)
        self.card: dict[str, Any] = json.loads((path / "annotator.json").read_text())
        self.name, self.window = str(self.card["name"]), int(self.card["window"])
        self.column = str(self.card.get("column", "quality"))
        self.tokenizer = plain_tokenizer(path / "tokenizer.json")
        self.device, self.precision = torch.device(device), precision
        self.model: Any = _loaded(path, self.device, precision)
        names = self.model.config.id2label
        self.labels = tuple(names[k] for k in sorted(names)) if len(names) == 2 else ()

    def score(self, texts: Sequence[str], located: bool = False) -> list[Score]:
        """One Score a text, in order; a text does not depend on the others (up to rounding).

        located: with `spans`, at two fifths more of the tokenizer's time.
        """
        parts = [texts[k : k + _TEXTS] for k in range(0, len(texts), _TEXTS)]
        make = partial(windows, self.tokenizer, window=self.window, located=located)
        return [
            score
            for cuts in ahead([partial(make, part) for part in parts])
            for score in self._scores(cuts)
        ]

    def _scores(self, cuts: list[Cut]) -> Iterator[Score]:
        alone = self.precision == "int8"
        flat = [row for cut in cuts for row in cut.rows]
        values = iter(probabilities(self.model, flat, self.window, alone).tolist())
        for rows, truncated, spans in cuts:
            of = tuple(next(values) for _ in rows)
            yield Score(sum(of) / len(of), of, truncated, spans, sum(map(len, rows)))


def _loaded(path: Path, device: torch.device, precision: str) -> Any:
    if precision == "int8" and device.type != "cpu":
        raise ValueError(f"precision int8 is for CPUs, not {device.type}: use precision: exact")
    model = AutoModelForSequenceClassification.from_pretrained(
        path,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
    )
    if model.config.num_labels > 2:
        raise ValueError(f"{path} tells {model.config.num_labels} classes apart: 1 or 2")
    model = first_only(model.to(device).eval())
    if device.type != "cpu":
        return model
    return eight_bit(model) if precision == "int8" else packed(model)


def ahead(makes: Sequence[Callable[[], list[Cut]]]) -> Iterator[list[Cut]]:
    """What each of `makes` gives, in order, the next one made while this one is used."""
    if len(makes) < 2:
        yield from (make() for make in makes)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(makes[0])
        for make in makes[1:]:
            found, coming = coming.result(), pool.submit(make)
            yield found
        yield coming.result()


def plain_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file, for documents: specials in a text are text, nothing is cut."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def windows(
    tokenizer: Tokenizer, texts: Sequence[str], window: int, located: bool = False
) -> list[Cut]:
    """Per text its one to three windows (ids, at most `window` long) and whether some is unseen.

    A text that fits gives one, one that fits twice gives top and bottom, else top, middle, bottom.
    Each is framed by the tokens that the tokenizer adds to a text ([CLS] or END, [SEP]). located:
    also where each lies, in characters; what lies between two tokens is the former's.
    """
    before, after = frame(tokenizer)
    body = window - len(before) - len(after)
    encode = tokenizer.encode_batch if located else tokenizer.encode_batch_fast
    out = []
    for start in range(0, len(texts), _TEXTS):
        some = list(texts[start : start + _TEXTS])
        for text, found in zip(some, encode(some, add_special_tokens=False), strict=True):
            ids = found.ids
            starts = _starts(len(ids), body)
            rows = [np.array([*before, *ids[a : a + body], *after], np.int32) for a in starts]
            spans = _spans(text, found, starts, body) if located else ()
            out.append(Cut(rows, len(ids) > 3 * body, spans))
    return out


def _spans(
    text: str, found: Encoding, starts: Sequence[int], body: int
) -> tuple[tuple[int, int], ...]:
    def place(token: int) -> int:
        chars = found.token_to_chars(token) if token else (0, 0)
        return chars[0] if chars else len(text)  # None: behind the last token

    return tuple((place(a), place(a + body)) for a in starts)


def frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after every text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    at = next(k for k in range(len(full)) if full[k : k + len(bare)] == bare)
    return full[:at], full[at + len(bare) :]


def probabilities(
    model: Any, rows: Sequence[np.ndarray], window: int, alone: bool = False
) -> np.ndarray:
    """The model's value for each window, float64: P(class 1), or the output if it has only one.

    Rows are at most `window` long. alone: no two of them in one batch.
    """
    out = np.zeros(len(rows))
    widths = [min(window, -(-max(1, len(r)) // _STEP) * _STEP) for r in rows]
    for batch in _batches(widths, 1 if alone else _budget(model)):
        out[batch] = _forward(model, [rows[k] for k in batch], widths[batch[0]])
    return out


def _budget(model: Any) -> int:
    """Padded tokens a batch; a batch has one window at least."""
    if model.device.type != "cpu":
        return _GPU_BUDGET
    inside = 12 * model.config.num_hidden_layers * model.config.hidden_size**2
    return min(_CPU_BUDGET, max(512, int(_CPU_WORK / inside)))


def padded(
    rows: Sequence[np.ndarray], pad: int, device: torch.device, width: int | None = None
) -> dict[str, torch.Tensor | None]:
    """`input_ids` and `attention_mask` (rows, width or the longest); no mask where nothing is padded."""
    width = width or max(map(len, rows))
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
def _forward(model: Any, rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    inputs = padded(rows, model.config.pad_token_id or 0, model.device, width)
    logits = model(**inputs).logits.double()
    values = logits[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, 1]
    result: np.ndarray = values.cpu().numpy()
    return result


def _starts(length: int, body: int) -> tuple[int, ...]:
    if length <= body:
        return (0,)
    if length <= 2 * body:
        return (0, length - body)
    return (0, (length - body) // 2, length - body)


def _batches(widths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Row numbers, widest first, in batches of a power of two of rows and at most `budget` padded
    tokens, or of one row."""
    order = sorted(range(len(widths)), key=lambda k: -widths[k])
    start = 0
    while start < len(order):
        most = max(1, budget // widths[order[start]])
        rows = 1 << (min(most, len(order) - start).bit_length() - 1)
        yield order[start : start + rows]
        start += rows
