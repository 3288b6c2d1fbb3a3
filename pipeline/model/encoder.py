"""Trains the quality annotator: an encoder with a linear head on good files against the corpus.

Arctic-SnowCoder, section 2.2, on a named encoder; or, with none, on a small BERT of our own, which
a laptop trains in half a minute, after masked-language modelling on the same files if asked (ours).
Gives the annotator folder that `scorer` loads and how well it separates held-out repositories.
Knows nothing of where the files came from.
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
    BertForMaskedLM,
    BertForSequenceClassification,
)

from pipeline.core.errors import StageError
from pipeline.core.log import progress
from pipeline.core.schema import END, FIM_PAD, REPO_NAME, SPECIALS
from pipeline.model.machine import borrowed
from pipeline.model.scorer import padded, plain_tokenizer, probabilities, windows
from pipeline.model.settings import EncoderConfig

log = logging.getLogger(__name__)

_MASK = REPO_NAME
"""Masked-language modelling's mask: no document's text ever gives this id."""


def train_annotator(
    texts: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    tokenizer_json: Path,
    cfg: EncoderConfig,
    folder: Path,
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train on `texts` with `labels` (1 good, 0 corpus), write `folder`, return the measurements.

    `groups` are the repositories: none is on both sides of the split. `tokenizer_json` is the
    small encoder's; a named encoder has its own. The dict has `auc` and its 95 % `auc_interval`
    (DeLong) and `accuracy` on held-out files, `train` and `held_out` ([corpus, good] files each),
    `mlm_loss` and `loss_last` (means of the last 20 steps; null without steps). The same bytes for
    the same inputs, threads and CPU. StageError where a side would lack a class.
    """
    held, truth = split(labels, groups, cfg), np.asarray(labels)
    with borrowed(cfg.threads, torch.device(device)):
        tokenizer = _tokenizer(tokenizer_json, cfg, folder)
        cut = [parts for parts, _ in windows(tokenizer, texts, cfg.window)]
        torch.manual_seed(cfg.seed)  # of the new weights; `borrowed` puts the old state back
        train = [(w, int(truth[k])) for k in np.flatnonzero(~held) for w in cut[k]]
        model, mlm_loss = _start([w for w, _ in train], tokenizer.get_vocab_size(), cfg, device)
        loss = _classify(model, train, cfg)
        scores = _score(model, [cut[k] for k in np.flatnonzero(held)])
    report = _measure(scores, truth, held) | {"mlm_loss": mlm_loss, "loss_last": loss}
    _publish(model, cfg, report, folder)
    low, high = report["auc_interval"]
    log.info("annotator  AUC %.3f (%.3f to %.3f) on %d files", report["auc"], low, high, held.sum())
    return report


def split(labels: Sequence[int], groups: Sequence[str], cfg: EncoderConfig) -> np.ndarray:
    """True where a file is held out: whole groups, about `held_out` of each class.

    Groups in a seeded order, each taken if its files still fit into the share; a class left
    without any gets its smallest group. StageError if a class is absent from a side.
    """
    if len(labels) != len(groups) or not set(labels) <= {0, 1}:
        raise ValueError(f"{len(labels)} labels of {set(labels)} for {len(groups)} groups")
    names, member = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)
    sizes = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(sizes, (member, np.array(labels, dtype=np.int64)), 1)
    total = sizes.sum(0)
    share = np.maximum(1, np.round(total * cfg.held_out).astype(np.int64)).clip(max=total - 1)
    taken = np.zeros(len(names), dtype=bool)
    held = np.zeros(2, dtype=np.int64)
    for g in np.random.default_rng([cfg.seed, 0]).permutation(len(names)):
        if (held + sizes[g] <= share).all():
            taken[g], held = True, held + sizes[g]
    for label in (0, 1):
        mine = [g for g in np.flatnonzero(sizes[:, label]) if (held + sizes[g] < total).all()]
        if not held[label] and mine:
            smallest = min(mine, key=lambda g: sizes[g].sum())
            taken[smallest], held = True, held + sizes[smallest]
    _both_sides(held, total - held, (sizes > 0).sum(0))
    return np.asarray(taken[member])


def _both_sides(held: np.ndarray, train: np.ndarray, groups: np.ndarray) -> None:
    for label, name in enumerate(("corpus files (label 0)", "good files (label 1)")):
        if not (held[label] and train[label]):
            raise StageError(
                f"the annotator needs {name} to train on and to hold out, in different "
                f"repositories: there are {held[label] + train[label]} in {groups[label]} "
                "repositories. Give more sources of them"
            )


def _tokenizer(path: Path, cfg: EncoderConfig, folder: Path) -> Tokenizer:
    """The encoder's own tokenizer, or the pipeline's at `path`; saved in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.encoder is None:
        _end_first(path, cfg, folder)
    else:
        AutoTokenizer.from_pretrained(cfg.encoder, trust_remote_code=False).save_pretrained(folder)
    return plain_tokenizer(folder / "tokenizer.json")


def _end_first(path: Path, cfg: EncoderConfig, folder: Path) -> None:
    """The pipeline's tokenizer, putting END before a text as BERT puts [CLS]."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[END]} $A", special_tokens=[(SPECIALS[END], END)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"cls_token": END, "pad_token": FIM_PAD, "mask_token": _MASK}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": cfg.window,
        **{role: SPECIALS[i] for role, i in roles.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def _start(
    rows: Sequence[np.ndarray], vocab_size: int, cfg: EncoderConfig, device: str
) -> tuple[Any, float | None]:
    """The classifier with a new head on `device`, and the masked-language-model loss if any."""
    if cfg.encoder is not None:
        return _named(cfg).to(device), None
    return _small(rows, vocab_size, cfg, device)


def _named(cfg: EncoderConfig) -> Any:
    """The named encoder with a new head. StageError if its windows are shorter than ours."""
    model = AutoModelForSequenceClassification.from_pretrained(
        cfg.encoder, num_labels=2, trust_remote_code=False, dtype=torch.float32
    )
    limit = getattr(model.config, "max_position_embeddings", cfg.window)
    if cfg.window > limit:
        raise StageError(f"window {cfg.window} is too long for {cfg.encoder}: at most {limit}")
    return model


def _small(
    rows: Sequence[np.ndarray], vocab_size: int, cfg: EncoderConfig, device: str
) -> tuple[Any, float | None]:
    """A small BERT classifier, its body trained by masked-language modelling, and that loss."""
    model = BertForMaskedLM(_bert(vocab_size, cfg)).to(device)
    classifier = BertForSequenceClassification(model.config)
    stream = np.concatenate(rows).astype(np.int64)
    stream = np.resize(stream, max(cfg.window, len(stream)))

    def loss(step: int) -> torch.Tensor:
        ids, at, truth = _masked_batch(stream, vocab_size, cfg, step)
        x = model.bert(input_ids=torch.from_numpy(ids).to(device)).last_hidden_state
        picked = x.flatten(0, 1).index_select(0, torch.from_numpy(at).to(device))
        return functional.cross_entropy(model.cls(picked), torch.from_numpy(truth).to(device))

    mlm_loss = _descend(model, loss, cfg.mlm_steps, cfg.mlm_lr, "masked")
    classifier.bert.load_state_dict(model.bert.state_dict(), strict=False)
    return classifier.to(device), mlm_loss


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


def _masked_batch(
    stream: np.ndarray, vocab_size: int, cfg: EncoderConfig, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids (B, T), places to predict (P,) in the flattened batch, what was there (P,).

    15 % of the places; of those 80 % masked, 10 % another token, 10 % as they are (BERT).
    """
    rng = np.random.default_rng([cfg.seed, 1, step])
    starts = rng.integers(0, len(stream) - cfg.window + 2, size=cfg.batch)
    ids = stream[starts[:, None] + np.arange(cfg.window - 1)]
    ids = np.pad(ids, ((0, 0), (1, 0)), constant_values=END)
    ranks = rng.random(ids[:, 1:].shape).argsort(1)[:, : max(1, round(0.15 * cfg.window))] + 1
    at = np.sort((ranks + cfg.window * np.arange(cfg.batch)[:, None]).ravel())
    truth = ids.reshape(-1)[at]
    kind = rng.random(len(at))
    other = rng.integers(len(SPECIALS), vocab_size, size=len(at))
    ids.reshape(-1)[at] = np.where(kind < 0.8, _MASK, np.where(kind < 0.9, other, truth))
    return ids, at, truth


def _classify(
    model: Any, train: Sequence[tuple[np.ndarray, int]], cfg: EncoderConfig
) -> float | None:
    """Train on windows, each with its file's label; the mean loss of the last 20 steps."""
    if cfg.frozen:
        _freeze(model)
    steps = -(-len(train) // cfg.batch)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([cfg.seed, 2, epoch]).permutation(len(train))

    def loss(step: int) -> torch.Tensor:
        epoch, at = divmod(step, steps)
        batch = [train[k] for k in order(epoch)[at * cfg.batch : (at + 1) * cfg.batch]]
        inputs = padded([w for w, _ in batch], model.config.pad_token_id or 0, model.device)
        target = torch.tensor([label for _, label in batch], device=model.device)
        return functional.cross_entropy(model(**inputs).logits, target)

    # In eval mode, as FineWeb-Edu: no dropout.
    return _descend(model.eval(), loss, steps * cfg.epochs, cfg.lr, "classify")


def _freeze(model: Any) -> None:
    """Freeze all but the head; BERT's pooler counts as head (FineWeb-Edu)."""
    for name, weight in model.base_model.named_parameters():
        weight.requires_grad_("pooler" in name)


def _descend(
    model: Any, loss: Callable[[int], torch.Tensor], steps: int, peak: float, label: str
) -> float | None:
    """AdamW with a tenth of the steps warming up, then linear to 0; mean of the last 20 losses."""
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=peak, weight_decay=0.01)
    warmup = max(1, steps // 10)
    losses = []
    with progress(label, steps) as advance:
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


def _score(model: Any, cut: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """A score per file: the mean over its windows, as `Scorer` gives it."""
    values = probabilities(model, [w for parts in cut for w in parts])
    ends = np.cumsum([len(parts) for parts in cut])
    return np.array([part.mean() for part in np.split(values, ends[:-1])])


def _measure(scores: np.ndarray, labels: np.ndarray, held: np.ndarray) -> dict[str, Any]:
    truth = labels[held]
    area, interval = auc(scores, truth)
    return {
        "auc": area,
        "auc_interval": list(interval),
        "accuracy": float(((scores > 0.5) == (truth == 1)).mean()),
        "train": np.bincount(labels[~held], minlength=2).tolist(),
        "held_out": np.bincount(truth, minlength=2).tolist(),
    }


def auc(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Area under the ROC curve by ranks, ties averaged, and its 95 % interval (DeLong 1988).

    At exactly 0 or 1 DeLong's variance is 0; there the open end is the rule of three's, 3 / n of
    the smaller class (ours).
    """
    good, rest = scores[labels == 1], scores[labels == 0]
    m, n = len(good), len(rest)
    above = (_ranks(np.concatenate([good, rest]))[:m] - _ranks(good)) / n
    below = 1 - (_ranks(np.concatenate([rest, good]))[:n] - _ranks(rest)) / m
    area = float(above.mean())
    variance = sum(float(v.var(ddof=1)) / len(v) for v in (above, below) if len(v) > 1)
    half = 1.96 * variance**0.5 if 0 < area < 1 else 3 / min(m, n)
    return area, (max(0.0, area - half), min(1.0, area + half))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _publish(model: Any, cfg: EncoderConfig, report: dict[str, Any], folder: Path) -> None:
    name = Path(cfg.encoder).name if cfg.encoder else f"bert-{cfg.layers}x{cfg.hidden}"
    model.save_pretrained(folder)
    card = {"name": f"annotator-{name}", "window": cfg.window, "auc": report}
    (folder / "annotator.json").write_text(json.dumps(card, indent=2))
