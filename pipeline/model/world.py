"""The processes that train one model together: this one's place, how the model is spread, and talk.

Either every process has the whole model and gradients are averaged (DDP), or each has a slice of
all rows (FSDP2, after ZeRO 1910.02054). torch only; who starts the processes is not known here.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

CPU = torch.device("cpu")

Group = distributed.ProcessGroup | None
"""Processes that can talk to each other from the host; None for one alone."""


@dataclass(frozen=True)
class World:
    """This process's place among the `size` that train one model.

    More than one have joined a torch process group, and share the training folder.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU


def spread(net: nn.Module, world: World, sharding: str) -> nn.Module:
    """`net` on the world's device; its backward pass averages gradients over the processes.

    sharding: none leaves every process the whole of it; grad and full turn its parameters into
    DTensors of which a process has some rows, so make the optimizer afterwards.
    """
    if world.size == 1:
        return net.to(world.device)
    if sharding != "none":
        return _sharded(net, world, sharding == "full")
    devices = [world.device] if world.device.type == "cuda" else None
    # Buffers are constants (rotary frequencies): by default DDP would send them at every step.
    return nn.parallel.DistributedDataParallel(
        net.to(world.device), device_ids=devices, broadcast_buffers=False
    )


def quiet(net: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """No averaging between the parts of a batch: only the last one's backward pass talks."""
    if isinstance(net, FSDPModule):
        net.set_requires_gradient_sync(not wanted)
    elif wanted and isinstance(net, nn.parallel.DistributedDataParallel):
        return net.no_sync()  # type: ignore[no-any-return, no-untyped-call]
    return nullcontext()


def host_group(world: World) -> Group:
    """A way to talk that leaves the training's own alone, so that another thread may use it."""
    return distributed.new_group(backend="gloo") if world.size > 1 else None


def exchange(text: str, among: Group) -> list[str]:
    """Every process's text, by rank. All of them must call this; RuntimeError when one is gone."""
    if among is None:
        return [text]
    raw = text.encode()
    length = torch.tensor([len(raw)])
    lengths = [int(n) for n in _gathered(length, among)]
    padded = torch.zeros(max(lengths), dtype=torch.uint8)
    padded[: len(raw)] = torch.tensor(list(raw), dtype=torch.uint8)
    found = zip(_gathered(padded, among), lengths, strict=True)
    return [bytes(t[:n].tolist()).decode() for t, n in found]


def _gathered(mine: torch.Tensor, among: distributed.ProcessGroup) -> Sequence[torch.Tensor]:
    found = [torch.zeros_like(mine) for _ in range(among.size())]
    distributed.all_gather(found, mine, group=among)
    return found


def _sharded(net: nn.Module, world: World, full: bool) -> nn.Module:
    """Each decoder layer is gathered when it is needed, the rest (embeddings, last norm) at once.

    full: a layer's weights are let go of after its forward pass and gathered again for the backward
    one; else they stay in between, and only gradients and moments are spread.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    settings: dict[str, Any] = {"mesh": mesh}
    if world.device.type == "cuda":  # summed in float32: bfloat16 loses small gradients
        settings["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    for layer in layers(net):
        fully_shard(layer, reshard_after_forward=full, **settings)
    fully_shard(net, reshard_after_forward=False, **settings)
    return net


def layers(net: nn.Module) -> Sequence[nn.Module]:
    """The decoder layers of a transformers model: its outermost list of modules."""
    return next((list(m) for m in net.modules() if isinstance(m, nn.ModuleList)), [])
