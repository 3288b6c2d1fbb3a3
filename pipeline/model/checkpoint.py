"""Checkpoints that kill -9 cannot spoil, and the published folder of a finished model.

A checkpoint is weights and optimizer as safetensors, and their hashes; it is written under another
name, synced and renamed, so it is whole or not there. Publishing writes Hugging Face layout with
its tokenizer, for plain transformers. Knows nothing of data or of the training loop.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from transformers.utils.logging import disable_progress_bar

from pipeline.core.errors import StageError
from pipeline.core.schema import END, FIM_PAD, SPECIALS
from pipeline.core.store import guard, sha256_file

log = logging.getLogger(__name__)

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    meta: Mapping[str, Any],
) -> Path:
    """Write the checkpoint after `step` steps, all or nothing; returns its folder.

    meta: JSON values, given back by `load_latest`. One process may write to `folder` at a time.
    StageError when the disk is full.
    """
    target, half = folder / f"step-{step:08d}", folder / f".half-{step:08d}"
    for left in folder.glob(".half-*"):
        shutil.rmtree(left)
    try:
        with guard(half):
            half.mkdir(parents=True)
            save_model(model, str(half / MODEL))
            save_file(dict(_moments(model, optimizer)), half / OPTIMIZER)
            hashes = {name: sha256_file(half / name) for name in (MODEL, OPTIMIZER)}
            state = {"step": step, "meta": dict(meta), "sha256": hashes}
            (half / STATE).write_text(json.dumps(state, indent=1) + "\n")
            for path in (*half.iterdir(), half):
                sync(path)
    except SafetensorError as e:
        raise StageError(f"{half}: {e}; free some space and run the same command again") from e
    shutil.rmtree(target, ignore_errors=True)  # a damaged one that was passed over
    os.rename(half, target)
    sync(folder)
    return target


def load_latest(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put the newest undamaged checkpoint into both; its `meta`, or None when there is none.

    A damaged one is passed over with a warning.
    """
    path = _newest(folder)
    if path is None:
        return None
    load_model(model, path / MODEL)
    _put(path, model, optimizer)
    return dict(json.loads((path / STATE).read_text())["meta"])


def carry(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the moments of another phase's newest checkpoint into the optimizer; weights stay.

    StageError when that phase has no undamaged checkpoint.
    """
    path = _newest(folder)
    if path is None:
        raise StageError(f"{folder} has no checkpoint to carry the optimizer from; use reset")
    _put(path, model, optimizer)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights by name, whole, on the host; `path` is its folder."""
    return dict(load_file(path / MODEL))


def keep(folder: Path, last: int) -> None:
    """Delete all but the `last` newest checkpoints."""
    for path in sorted(folder.glob("step-*"))[:-last]:
        shutil.rmtree(path)


def publish(model: Any, folder: Path, tokenizer_json: Path, info: Mapping[str, Any]) -> None:
    """Write `folder` for AutoModelForCausalLM and AutoTokenizer; `info` becomes icefloe.json.

    Files of an earlier attempt are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    with guard(folder):
        model.save_pretrained(folder)
        shutil.copyfile(tokenizer_json, folder / "tokenizer.json")
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIALS[END],
            "pad_token": SPECIALS[FIM_PAD],
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.max_position_embeddings,
        }
        for name, content in (("tokenizer_config.json", settings), ("icefloe.json", dict(info))):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _newest(folder: Path) -> Path | None:
    for path in sorted(folder.glob("step-*"), reverse=True):
        fault = _fault(path)
        if fault is None:
            return path
        log.warning("%s: %s; going back to the checkpoint before it", path, fault)
    return None


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        hashes = json.loads((path / STATE).read_text())["sha256"]
        bad = [name for name in (MODEL, OPTIMIZER) if sha256_file(path / name) != hashes[name]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        return f"unreadable ({e})"
    return f"{bad[0]} does not have the hash that was written down" if bad else None


def _moments(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            yield f"{key}.{name}", value.detach().contiguous()


def _put(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tensors = load_file(path / OPTIMIZER)
    named = dict(model.named_parameters())
    optimizer.state.clear()
    for label, value in tensors.items():
        key, name = label.split(".", 1)
        # A copy of torch's own making: vector code rounds differently on a file's alignment.
        mine = torch.empty_like(value, device=named[name].device).copy_(value)
        optimizer.state[named[name]][key] = mine
