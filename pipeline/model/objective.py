"""The loss of a causal language model, as one module that compiles and that a process group wraps.

Plain causal attention over the whole sequence, as in SnowCoder. torch only; knows nothing of steps.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.model.batches import IGNORED


class Objective(nn.Module):
    """The summed next-token loss of a model, as one module that a process group can wrap."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """ids, labels (B, T) -> scalar, in nats: place t predicts label t + 1."""
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = self.model.get_output_embeddings()(hidden)
        targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
