"""Trains the quality annotator: an encoder with a linear head on good files against the corpus.

Arctic-SnowCoder, section 2.2, on a named encoder, fine-tuned or (FineWeb-Edu) frozen; or, with none,
on a small BERT of our own, which a laptop trains in half a minute. Gives the annotator folder that
`scorer` loads. Knows nothing of where the files came from, nor how well it separates them.
"""

import json
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, processors
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from pipeline.core.errors import StageError
from pipeline.core.log import progress
from pipeline.core.schema import END, FIM_PAD, SPECIALS
from pipeline.model.machine import borrowed
from pipeline.model.scorer import padded, plain_tokenizer, windows
from pipeline.model.settings import EncoderConfig

log = logging.getLogger(__name__)
Windows = Sequence[np.ndarray]
_ONCE = 32
"""Windows that a frozen encoder reads at a time (ours)."""


def train_annotator(
    texts: Sequence[str],
    labels: Sequence[int],
    tokenizer_json: Path,
    cfg: EncoderConfig,
    folder: Path,
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train on `texts` with `labels` (1 good, 0 corpus) and write `folder`.

    `tokenizer_json` is the small encoder's; a named encoder has its own. Gives `windows`, how many
    there were, and `loss_last`, the mean of the last 20 steps. The same bytes for the same inputs,
    threads and CPU. StageError where the encoder cannot be loaded or its windows are shorter.
    """
    with borrowed(cfg.threads, torch.device(device)):
        tokenizer = _tokenizer(tokenizer_json, cfg, folder)
        torch.manual_seed(cfg.seed)  # of the new weights; `borrowed` puts the old state back
        model = _start(tokenizer.get_vocab_size(), cfg).to(device)
        cuts = [cut.rows for cut in windows(tokenizer, texts, cfg.window)]
        truth = np.repeat(np.asarray(labels, dtype=np.int64), list(map(len, cuts)))
        loss = _classify(model, [row for rows in cuts for row in rows], truth, cfg)
    _publish(model, cfg, folder)
    return {"windows": len(truth), "loss_last": loss}


def _tokenizer(path: Path, cfg: EncoderConfig, folder: Path) -> Tokenizer:
    """The encoder's own tokenizer, or the pipeline's at `path`; saved in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.encoder is None:
        _end_first(path, cfg, folder)
    else:
        loaded = _loaded(AutoTokenizer, cfg.encoder)
        loaded.save_pretrained(folder)
        bare = set(loaded.get_vocab()) <= set(loaded.all_special_tokens)  # made from nothing
        if bare or not (folder / "tokenizer.json").is_file():
            raise StageError(
                f"encoder {cfg.encoder}: no tokenizer with a fast form (tokenizer.json) is there; "
                "name a folder with one, or leave `encoder` out for a small BERT"
            )
    return plain_tokenizer(folder / "tokenizer.json")


def _loaded(kind: Any, encoder: str, **settings: Any) -> Any:
    """`kind.from_pretrained(encoder)`; StageError where there is none or the hub cannot be reached."""
    try:
        return kind.from_pretrained(encoder, trust_remote_code=False, **settings)
    except (OSError, ValueError, KeyError) as e:
        said = (str(e).splitlines() or [type(e).__name__])[0]
        raise StageError(
            f"encoder {encoder}: no {'tokenizer' if kind is AutoTokenizer else 'model'} could be "
            f"loaded ({said}). Name a folder with one, or leave `encoder` out for a small BERT"
        ) from e


def _end_first(path: Path, cfg: EncoderConfig, folder: Path) -> None:
    """The pipeline's tokenizer, putting END before a text as BERT puts [CLS]."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[END]} $A", special_tokens=[(SPECIALS[END], END)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": cfg.window,
        "cls_token": SPECIALS[END],
        "pad_token": SPECIALS[FIM_PAD],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def _start(vocab_size: int, cfg: EncoderConfig) -> Any:
    """The classifier with a new head. StageError if the encoder's windows are shorter than ours."""
    if cfg.encoder is None:
        return BertForSequenceClassification(_bert(vocab_size, cfg))
    model = _loaded(
        AutoModelForSequenceClassification, cfg.encoder, num_labels=2, dtype=torch.float32
    )
    limit = _longest(model, cfg.window)
    if cfg.window > limit:
        raise StageError(
            f"window {cfg.window} is too long for {cfg.encoder}: at most {limit}; set `window`"
        )
    return model


def _longest(model: Any, unstated: int) -> int:
    """Tokens that an encoder has positions for; RoBERTa's begin after the padding's."""
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    limit = int(getattr(model.config, "max_position_embeddings", unstated))
    return limit if padding is None else limit - padding - 1


def _bert(vocab_size: int, cfg: EncoderConfig) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=cfg.hidden,
        intermediate_size=4 * cfg.hidden,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        max_position_embeddings=cfg.window,
        type_vocab_size=1,
        pad_token_id=FIM_PAD,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=2,
    )


def _classify(model: Any, train: Windows, truth: np.ndarray, cfg: EncoderConfig) -> float | None:
    """Train on windows, each with its file's label; the mean loss of the last 20 steps."""
    model.eval()  # as FineWeb-Edu: no dropout
    if cfg.frozen:
        _freeze(model)
    logits = _frozen(model, train) if cfg.frozen else _whole(model, train)
    steps = -(-len(train) // cfg.batch)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([cfg.seed, 2, epoch]).permutation(len(train))

    def loss(step: int) -> torch.Tensor:
        epoch, at = divmod(step, steps)
        batch = order(epoch)[at * cfg.batch : (at + 1) * cfg.batch]
        target = torch.from_numpy(truth[batch]).to(model.device)
        return functional.cross_entropy(logits(batch), target)

    return _descend(model, loss, steps * cfg.epochs, cfg.lr)


def _freeze(model: Any) -> None:
    """Freeze all but the head; BERT's pooler counts as head (FineWeb-Edu)."""
    for name, weight in model.base_model.named_parameters():
        weight.requires_grad_("pooler" in name)


def _whole(model: Any, train: Windows) -> Callable[[np.ndarray], torch.Tensor]:
    """The logits of some of the windows, through all of the model."""

    def logits(batch: np.ndarray) -> torch.Tensor:
        rows = [train[k] for k in batch]
        result: torch.Tensor = model(
            **padded(rows, model.config.pad_token_id or 0, model.device)
        ).logits
        return result

    return logits


def _frozen(model: Any, train: Windows) -> Callable[[np.ndarray], torch.Tensor]:
    """The same for a frozen encoder. BERT's reads each window once, whatever the epochs."""
    if not isinstance(model, BertForSequenceClassification):
        return _whole(model, train)
    first = _first_states(model, train)

    def logits(batch: np.ndarray) -> torch.Tensor:
        states = first[torch.from_numpy(batch)].to(model.device)
        result: torch.Tensor = model.classifier(model.bert.pooler(states[:, None]))
        return result

    return logits


@torch.no_grad()
def _first_states(model: Any, train: Windows) -> torch.Tensor:
    """The last state of each window's first token, (windows, hidden), on the CPU."""
    out = torch.zeros(len(train), model.config.hidden_size)
    by_length = np.argsort([len(w) for w in train], kind="stable")
    with progress("encode", len(train)) as advance:
        for start in range(0, len(train), _ONCE):
            some = by_length[start : start + _ONCE]
            rows = [train[k] for k in some]
            inputs = padded(rows, model.config.pad_token_id or 0, model.device)
            out[torch.from_numpy(some)] = model.bert(**inputs).last_hidden_state[:, 0].cpu()
            advance(len(some))
    return out


def _descend(
    model: Any, loss: Callable[[int], torch.Tensor], steps: int, peak: float
) -> float | None:
    """AdamW with a tenth of the steps warming up, then linear to 0; mean of the last 20 losses."""
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=peak, weight_decay=0.01)
    warmup = max(1, steps // 10)
    losses = []
    with progress("classify", steps) as advance:
        for step in range(steps):
            rate = min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
            optimizer.param_groups[0]["lr"] = peak * rate
            optimizer.zero_grad()
            value = loss(step)
            torch.autograd.backward(value)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            losses.append(value.detach())
            advance(1)
    return float(torch.stack(losses[-20:]).mean()) if losses else None


def _publish(model: Any, cfg: EncoderConfig, folder: Path) -> None:
    name = Path(cfg.encoder).name if cfg.encoder else f"bert-{cfg.layers}x{cfg.hidden}"
    model.save_pretrained(folder)
    card = {"name": f"annotator-{name}", "kind": "encoder", "column": "quality"}
    (folder / "annotator.json").write_text(json.dumps(card | {"window": cfg.window}, indent=2))
