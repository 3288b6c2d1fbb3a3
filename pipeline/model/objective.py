"""The loss of a causal language model, as one module that compiles and that a process group wraps.

Causal attention over the whole sequence, as in SnowCoder, or inside each document. torch only;
knows nothing of steps.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.model.bits import IGNORED
from pipeline.model.loss import summed
from pipeline.model.masks import inside, spared

SCALING = {"logit_scale": 1.0, "logits_scaling": 1.0, "final_logit_softcapping": None}
"""Settings of some transformers models that change the logits behind the last matrix, and the values
that leave them as they are (Cohere, Granite, Gemma 2)."""


class Objective(nn.Module):
    """The summed next-token loss of a model, as one module that a process group can wrap."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        head = model.get_output_embeddings()
        self.plain = isinstance(head, nn.Linear) and all(
            getattr(model.config, name, value) == value for name, value in SCALING.items()
        )

    def forward(
        self, ids: torch.Tensor, labels: torch.Tensor, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """ids, labels (B, T) -> scalar, in nats: place t predicts label t + 1.

        documents: the number of the document at each place (B, T); then nothing is seen or
        predicted across their borders.
        """
        given: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if documents is not None:
            given |= inside(documents, self.model)
            labels = spared(labels, documents)
        targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
        if not self.plain:
            logits = self.model(**given).logits.flatten(0, 1)
            return functional.cross_entropy(
                logits.float(), targets, ignore_index=IGNORED, reduction="sum"
            )
        hidden = self.model.base_model(**given).last_hidden_state.flatten(0, 1)
        head = self.model.get_output_embeddings()
        return summed(hidden, head.weight, head.bias, targets)
