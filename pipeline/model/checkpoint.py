"""Checkpoints that kill -9 cannot spoil, and the published folder of a finished model.

A checkpoint is the parts of all processes (`shards`) and, written last, state.json with their sizes
and hashes; under another name until everything is synced, so it is whole or not there. Publishing
writes Hugging Face layout with its tokenizer, for plain transformers. Knows nothing of data or of the
training loop.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import distributed, nn
from transformers.utils.logging import disable_progress_bar

from pipeline.core.config import canonical
from pipeline.core.errors import StageError
from pipeline.core.schema import END, FIM_PAD, SPECIALS
from pipeline.core.store import guard, sha256_file
from pipeline.model import shards
from pipeline.model.world import Group, World, exchange

log = logging.getLogger(__name__)

MODEL, OPTIMIZER, STATE = "model", "optimizer", "state.json"
"""Files of one process: model.safetensors; of several: model-00000-of-00002.safetensors."""

ALONE = World()


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    meta: Mapping[str, Any],
) -> Path:
    """Write the checkpoint after `step` steps from one process, all or nothing; its folder.

    meta: JSON values, given back by `load_latest`. One process may write to `folder` at a time.
    StageError when the disk is full.
    """
    parts = copied(model, optimizer, ALONE, {})
    return write(folder, ALONE, None, step, parts, meta)


def copied(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World,
    host: dict[str, shards.Tensors],
) -> dict[str, shards.Part]:
    """Copies of what this process is to write, by file name; complete when this returns.

    host: memory of earlier copies, used again, or empty.
    """
    of = f"-{world.rank:05d}-of-{world.size:05d}" if world.size > 1 else ""
    state = {MODEL: shards.weights(model), OPTIMIZER: shards.moments(model, optimizer)}
    made = {
        f"{kind}{of}.safetensors": shards.part(tensors, world, host.setdefault(kind, {}))
        for kind, tensors in state.items()
    }
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return made


def write(
    folder: Path,
    world: World,
    among: Group,
    step: int,
    parts: Mapping[str, shards.Part],
    meta: Mapping[str, Any],
) -> Path:
    """All processes write their parts; then the first one makes them a checkpoint."""
    target, half = folder / f"step-{step:08d}", folder / f".half-{step:08d}"
    if world.rank == 0:
        _all(among, lambda: _begin(folder, half))
        files = _all(among, lambda: _put(half, parts))
        _all(
            among, lambda: _commit(half, target, {"step": step, "meta": dict(meta), "files": files})
        )
    else:
        _all(among, dict)
        _all(among, lambda: _put(half, parts))
        _all(among, dict)
    return target


def load_latest(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, among: Group = None
) -> dict[str, Any] | None:
    """Put the newest undamaged checkpoint into both; its `meta`, or None when there is none.

    A damaged one is passed over with a warning. However many processes wrote it, any number may
    read it, spread in any way. StageError when it is another architecture's.
    """
    path = newest(folder, among)
    if path is None:
        return None
    with _said(path, "name the model that wrote it, or move it away to begin anew"):
        shards.put_weights(model, _stored(path, MODEL))
        shards.put_moments(model, optimizer, _stored(path, OPTIMIZER))
    return dict(_state(path)["meta"])


def carry(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, among: Group = None
) -> None:
    """Put the moments of another phase's newest checkpoint into the optimizer; weights stay.

    StageError when that phase has no undamaged checkpoint, or one of another architecture.
    """
    path = newest(folder, among)
    if path is None:
        raise StageError(f"{folder} has no checkpoint to carry the optimizer from; use reset")
    with _said(path, "use optimizer: reset"):
        shards.put_moments(model, optimizer, _stored(path, OPTIMIZER))


def weights(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights by name, whole, on the host; `path` is its folder."""
    return shards.whole(_stored(path, MODEL))


def newest(folder: Path, among: Group = None) -> Path | None:
    """The newest undamaged checkpoint, the same for all processes, each of which checks some
    files; None when there is none."""
    found = json.dumps([p.name for p in sorted(folder.glob("step-*"), reverse=True)])
    for name in list[str](json.loads(exchange(found, among)[0])):
        faults = map(json.loads, exchange(json.dumps(_fault(folder / name, among)), among))
        fault = next(filter(None, faults), None)
        if fault is None:
            return folder / name
        log.warning("%s: %s; going back to the checkpoint before it", folder / name, fault)
    return None


def keep(folder: Path, last: int) -> None:
    """Delete all but the `last` newest checkpoints."""
    for path in sorted(folder.glob("step-*"))[:-last]:
        shutil.rmtree(path)


def publish(
    model: Any,
    folder: Path,
    tokenizer_json: Path,
    info: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write `folder` for AutoModelForCausalLM and AutoTokenizer; `info` becomes icefloe.json.

    weights: instead of the model's own, as `weights` reads them. Files of an earlier attempt are
    replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    with guard(folder):
        model.save_pretrained(folder, state_dict=dict(weights) if weights else None)
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


def _all(among: Group, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do it, then hear what the others' doing gave: all answers in one, or the first error."""
    try:
        told: dict[str, Any] = {"files": do()}
    except Exception as e:
        if among is None:
            raise
        exchange(json.dumps({"error": str(e)}), among)
        raise
    answers = [json.loads(t) for t in exchange(json.dumps(told), among)]
    errors = [f"process {i}: {a['error']}" for i, a in enumerate(answers) if "error" in a]
    if errors:
        raise StageError(errors[0])
    return {name: entry for a in answers for name, entry in a["files"].items()}


def _begin(folder: Path, half: Path) -> dict[str, Any]:
    """An empty folder to write in; what a kill has left goes."""
    for left in folder.glob(".half-*"):
        shutil.rmtree(left)
    with guard(half):
        half.mkdir(parents=True)
    return {}


def _put(half: Path, parts: Mapping[str, shards.Part]) -> dict[str, Any]:
    """Write this process's files; their sizes and hashes."""
    told = {}
    for name, part in parts.items():
        path = half / name
        try:
            with guard(path):
                shards.write(part, path)
                sync(path)
        except SafetensorError as e:
            raise StageError(f"{path}: {e}; free some space and run the same command again") from e
        told[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return told


def _commit(half: Path, target: Path, state: dict[str, Any]) -> dict[str, Any]:
    state = json.loads(json.dumps(state))
    with guard(half):
        text = json.dumps(state | {"sha256": _hash(state)}, indent=1) + "\n"
        (half / STATE).write_text(text)
        sync(half / STATE)
        sync(half)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one that was passed over
        os.rename(half, target)
        sync(target.parent)
    return {}


def _state(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / STATE).read_text()))


def _hash(state: Mapping[str, Any]) -> str:
    """Of everything that state.json says but this."""
    told = {k: v for k, v in state.items() if k != "sha256"}
    return hashlib.sha256(canonical(told).encode()).hexdigest()


def _fault(path: Path, among: Group) -> str | None:
    """What is wrong with a checkpoint's state, or with the files that fall to this process."""
    rank, size = (distributed.get_rank(among), among.size()) if among else (0, 1)
    try:
        state = _state(path)
        if _hash(state) != state["sha256"]:
            return f"{STATE} does not have the hash in it"
        for name in sorted(state["files"])[rank::size]:
            told, file = state["files"][name], path / name
            if file.stat().st_size != told["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {told['bytes']}"
            if sha256_file(file) != told["sha256"]:
                return f"{name} does not have the hash that was written down"
    except (OSError, ValueError, KeyError, TypeError) as e:
        return f"unreadable ({e})"
    return None


@contextmanager
def _said(path: Path, instead: str) -> Iterator[None]:
    """A StageError in this block names the checkpoint, and what to do."""
    try:
        yield
    except StageError as e:
        raise StageError(f"{path}: {e}; {instead}") from e


def _stored(path: Path, kind: str) -> dict[str, list[shards.Piece]]:
    return shards.read([path / n for n in _state(path)["files"] if n.startswith(kind)])
