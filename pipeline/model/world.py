"""The processes that train one model together: this one's place, and how gradients are shared.

torch only; who starts them (Ray, a test) is not known here.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

CPU = torch.device("cpu")


def alone(module: nn.Module) -> nn.Module:
    """The `wrap` of a world of one."""
    return module


@dataclass(frozen=True)
class World:
    """This process's place among those that train one model.

    `wrap` averages gradients over the `size` processes in the backward pass (DDP); they share the
    training folder, and a torch process group that all-reduces.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    wrap: Callable[[nn.Module], nn.Module] = alone


def quiet(net: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """No averaging between the parts of a batch: only the last one's backward pass talks."""
    if wanted and isinstance(net, nn.parallel.DistributedDataParallel):
        return net.no_sync()  # type: ignore[no-any-return, no-untyped-call]
    return nullcontext()
