"""A text as one vector: the mean over its windows of a language model's pooled last hidden states.

Any transformers model with safetensors weights, encoder or causal (phi-1 2306.11644 §2.1: the output
embedding of a pretrained CodeGen). Knows nothing of what the vectors are for.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from pipeline.core.errors import StageError
from pipeline.model.scorer import padded, plain_tokenizer, windows

Pool = Literal["mean", "first", "last"]
F32 = NDArray[np.float32]
_AT_ONCE = 256
"""Texts cut into windows at a time; batches form inside, so they bound memory (ours)."""
_BUDGET = 1 << 12
"""Padded tokens a batch: what the annotator's scorer found fastest on two cores."""
_LONGEST = 512
"""Tokens of a window where nobody says (ours)."""


def publish(source: str, window: int | None, folder: Path) -> int:
    """Copy the model and tokenizer named `source` to `folder`; its window in tokens.

    StageError where there is no model, tokenizer or safetensors file, or its context is shorter.
    """
    disable_progress_bar()
    _tokenizer(source, folder)
    model = _model(source)
    context = int(getattr(model.config, "max_position_embeddings", window or _LONGEST))
    if window is not None and window > context:
        raise StageError(f"window {window} is too long for {source}: at most {context}")
    model.save_pretrained(folder)
    return window or min(_LONGEST, context)


def _tokenizer(source: str, folder: Path) -> None:
    own = Path(source) / "tokenizer.json"
    folder.mkdir(parents=True, exist_ok=True)
    if own.is_file():
        shutil.copyfile(own, folder / "tokenizer.json")
        return
    try:
        AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(folder)
    except (OSError, ValueError, KeyError) as e:
        raise _missing(source, "tokenizer", e) from e
    if not (folder / "tokenizer.json").is_file():
        raise StageError(f"{source}: its tokenizer has no fast form (tokenizer.json)")


def _model(source: str | Path, **where: Any) -> Any:
    try:
        model = AutoModel.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, **where
        )
    except (OSError, ValueError, KeyError) as e:
        raise _missing(str(source), "safetensors model", e) from e
    return model.eval()


def _missing(source: str, what: str, error: Exception) -> StageError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return StageError(f"{source}: no {what} could be loaded ({said:.200}); name another encoder")


class Seen(NamedTuple):
    """What was read of a text: whether not all of it, the windows' places if asked, their tokens."""

    truncated: bool
    spans: tuple[tuple[int, int], ...]
    tokens: int


class Reader:
    """A loaded model that turns texts into vectors; the tokenizer's own added tokens frame windows."""

    def __init__(self, folder: Path, window: int, pool: Pool, device: str = "cpu") -> None:
        disable_progress_bar()
        self.tokenizer = plain_tokenizer(folder / "tokenizer.json")
        self.window, self.pool = window, pool
        self.model = _model(folder, local_files_only=True).to(device)

    def vectors(self, texts: Sequence[str], located: bool = False) -> tuple[F32, list[Seen]]:
        """(texts, width) float32, and what was read of each text.

        Batches depend on the texts of one call, so another order may round differently.
        """
        starts = range(0, len(texts), _AT_ONCE)
        parts = [self._some(texts[k : k + _AT_ONCE], located) for k in starts]
        if not parts:
            return np.zeros((0, self.model.config.hidden_size), np.float32), []
        return np.concatenate([v for v, _ in parts]), [seen for _, some in parts for seen in some]

    def _some(self, texts: Sequence[str], located: bool) -> tuple[F32, list[Seen]]:
        cuts = windows(self.tokenizer, texts, self.window, located)
        rows = [w if len(w) else np.zeros(1, np.int32) for cut in cuts for w in cut.rows]
        pooled = np.zeros((len(rows), self.model.config.hidden_size), np.float64)
        order = sorted(range(len(rows)), key=lambda k: -len(rows[k]))
        while order:
            size = max(1, _BUDGET // len(rows[order[0]]))
            batch, order = order[:size], order[size:]
            pooled[batch] = self._pooled([rows[k] for k in batch])
        ends = np.cumsum([len(cut.rows) for cut in cuts])
        means = [part.mean(0) for part in np.split(pooled, ends[:-1])]
        seen = [Seen(c.truncated, c.spans, sum(map(len, c.rows))) for c in cuts]
        return np.array(means, np.float32), seen

    @torch.inference_mode()
    def _pooled(self, rows: Sequence[NDArray[np.int32]]) -> NDArray[np.float64]:
        """(rows, width): each window's vector. Padding is on the right and counts for nothing."""
        given = padded(rows, self.model.config.pad_token_id or 0, self.model.device)
        hidden = self.model(**given).last_hidden_state.double()
        lengths = torch.tensor([len(r) for r in rows], device=hidden.device)
        if self.pool == "first":
            found = hidden[:, 0]
        elif self.pool == "last":
            found = hidden[torch.arange(len(rows), device=hidden.device), lengths - 1]
        else:
            real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
            found = (hidden * real[..., None]).sum(1) / lengths[:, None]
        pooled: NDArray[np.float64] = found.cpu().numpy()
        return pooled
