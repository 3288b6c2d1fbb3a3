"""Steps left out because their loss or gradient norm is a spike, decided where they are computed.

OLMo-core's SkipStep: more than k standard deviations above the mean of the steps before. The answer
stays on the device, as the `found_inf` with which torch's fused AdamW leaves weights, moments and
its step count alone; nothing waits for it. Knows nothing of files.
"""

from collections.abc import Sequence

import torch
from torch import distributed

from pipeline.model.settings import FitConfig
from pipeline.model.world import World


class Spikes:
    """The last `skip_window` losses and norms, also those of steps that were left out: a loss that
    stays high becomes the new mean."""

    def __init__(self, cfg: FitConfig, world: World, before: Sequence[tuple[float, float]]) -> None:
        """before: (loss, norm) of every step taken so far."""
        self.limit, self.window, self.world = cfg.skip, cfg.skip_window, world
        self.steps = max(0, len(before) - cfg.skip_window)
        self.seen = torch.zeros(2, cfg.skip_window, device=world.device)
        for pair in before[self.steps :]:
            self._add(torch.tensor(pair, device=world.device))

    def check(
        self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, norm: torch.Tensor
    ) -> torch.Tensor:
        """1 where the step now at hand is a spike, which `optimizer` will then not take, else 0.

        loss: this process's part of the mean loss; norm: of the whole gradient.
        """
        if self.limit is None:
            return torch.zeros((), device=loss.device)
        pair = torch.stack([loss.float(), norm.float()])
        if self.world.size > 1:
            distributed.all_reduce(pair[:1])
        there = min(self.steps, self.window)
        spike = torch.zeros((), device=pair.device)
        if there >= max(2, self.window // 2):
            std, mean = torch.std_mean(self.seen[:, :there], dim=1)
            spike = (pair > mean + self.limit * std).any().float()
        self._add(pair)
        optimizer.found_inf = spike  # type: ignore[attr-defined]
        return spike

    def _add(self, pair: torch.Tensor) -> None:
        self.seen[:, self.steps % self.window] = pair
        self.steps += 1
