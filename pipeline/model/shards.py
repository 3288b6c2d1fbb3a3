"""A training state in parts: each process's own tensors as safetensors, read back on any number.

Of a DTensor a process writes the rows it has; what all have alike is dealt out among them. A part's
header says of which rows it is. torch and safetensors alone; knows nothing of folders or steps.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from pipeline.core.errors import StageError
from pipeline.model.world import World

Tensors = dict[str, torch.Tensor]


class Part(NamedTuple):
    """What one process writes: host copies, and of those that are only some rows of a tensor, the
    first row and how many there are in all."""

    tensors: Tensors
    rows: dict[str, tuple[int, int]]


class Piece(NamedTuple):
    """Where some rows of a stored tensor are; `shape` is the whole tensor's."""

    file: Any
    name: str
    first: int
    shape: tuple[int, ...]


def weights(model: nn.Module) -> Tensors:
    """Parameters (tied ones once) and kept buffers by name."""
    kept = model.state_dict(keep_vars=True)
    buffers = {n: b for n, b in model.named_buffers() if n in kept}
    return dict(model.named_parameters()) | buffers


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state as `key.parameter`; tensors only."""
    return {
        f"{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def part(tensors: Mapping[str, torch.Tensor], world: World, host: Tensors) -> Part:
    """This process's share, copied into `host` (filled when first used: pinned where there is a
    GPU). The copies are on their way until `torch.cuda.synchronize`."""
    rows: dict[str, tuple[int, int]] = {}
    mine: Tensors = {}
    for name, tensor in _own(tensors, world):
        if isinstance(tensor, DTensor):
            rows[name] = (_first(tensor), tensor.shape[0])
        here = _local(tensor.detach())
        if name not in host:
            host[name] = torch.empty(here.shape, dtype=here.dtype, pin_memory=here.is_cuda)
        mine[name] = host[name].copy_(here, non_blocking=True)
    return Part(mine, rows)


def write(share: Part, path: Path) -> None:
    """One safetensors file; its header's `rows`, where there are any, is JSON: name to
    [first, of how many]."""
    # One entry: two would come in either order, and equal parts should be equal bytes.
    told = {"rows": json.dumps(share.rows)} if share.rows else {"format": "pt"}
    save_file(share.tensors, path, told)


def read(paths: Sequence[Path]) -> dict[str, list[Piece]]:
    """The tensors in the parts at `paths`: where their rows are."""
    found: dict[str, list[Piece]] = {}
    for path in paths:
        file: Any = safe_open(path, "pt")
        rows = json.loads((file.metadata() or {}).get("rows", "{}"))
        for name in file.keys():  # noqa: SIM118 (no mapping)
            shape = tuple(file.get_slice(name).get_shape())
            first, count = rows.get(name, (0, shape[0] if shape else 1))
            whole = (count, *shape[1:]) if shape else ()
            found.setdefault(name, []).append(Piece(file, name, first, whole))
    return found


def put_weights(model: nn.Module, stored: Mapping[str, Sequence[Piece]]) -> None:
    """Fill a model, or a process's rows of it; StageError when the names are not the model's."""
    wanted = weights(model)
    if other := sorted(wanted.keys() ^ stored.keys()):
        raise StageError(f"another architecture's: {other[0]} is in one of them alone")
    for name, target in wanted.items():
        _fill(target, stored[name])


def put_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, stored: Mapping[str, Sequence[Piece]]
) -> None:
    """Fill an optimizer's state, or a process's rows of it; what it had is forgotten."""
    named = dict(model.named_parameters())
    optimizer.state.clear()
    for label, pieces in stored.items():
        key, name = label.split(".", 1)
        if name not in named:
            raise StageError(f"another architecture's: it has {name}")
        like = named[name].detach()
        made = torch.empty_like(like) if pieces[0].shape else torch.empty((), device=like.device)
        optimizer.state[named[name]][key] = made
        _fill(made, pieces)


def whole(stored: Mapping[str, Sequence[Piece]]) -> Tensors:
    """The stored tensors in one piece each, on the host."""
    made = {}
    for name, pieces in stored.items():
        dtype = pieces[0].file.get_slice(name)[:0].dtype if pieces[0].shape else torch.float32
        made[name] = torch.empty(pieces[0].shape, dtype=dtype)
        _fill(made[name], pieces)
    return made


def _own(tensors: Mapping[str, torch.Tensor], world: World) -> Iterator[tuple[str, torch.Tensor]]:
    """All DTensors that have rows here; of the others, dealt by size, this process's."""
    loads = [0] * world.size
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            if len(_local(tensor)):
                yield name, tensor
            continue
        taker = loads.index(min(loads))
        loads[taker] += tensor.numel()
        if taker == world.rank:
            yield name, tensor


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _first(tensor: torch.Tensor) -> int:
    """The row with which a process's part begins; FSDP2 cuts rows as `torch.chunk` does."""
    if not isinstance(tensor, DTensor):
        return 0
    mesh, (placement,) = tensor.device_mesh, tensor.placements
    assert placement == Shard(0)
    return min(tensor.shape[0], mesh.get_local_rank() * -(-tensor.shape[0] // mesh.size()))


@torch.no_grad()
def _fill(target: torch.Tensor, pieces: Sequence[Piece]) -> None:
    """Copy the rows that the target has here. A copy into torch's own memory: vector code rounds
    differently on a file's alignment."""
    if tuple(target.shape) != pieces[0].shape:
        raise StageError(
            f"another architecture's: {pieces[0].name} is {pieces[0].shape} there, "
            f"{tuple(target.shape)} here"
        )
    mine, start = _local(target), _first(target)
    if not mine.ndim:
        mine.copy_(pieces[0].file.get_tensor(pieces[0].name))
        return
    for piece in pieces:
        stored = piece.file.get_slice(piece.name)
        low = max(start, piece.first)
        high = min(start + len(mine), piece.first + stored.get_shape()[0])
        if low < high:
            rows = stored[low - piece.first : high - piece.first]
            mine[low - start : high - start].copy_(rows)
