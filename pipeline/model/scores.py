"""What a model makes of a text that is there already: the log-probability of each of its tokens.

Texts are packed, cut where the logits would take too much memory. Knows nothing of requests.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.model.engine import Sampling
from pipeline.model.network import Network
from pipeline.model.sampling import likeliest
from pipeline.model.store import Part
from pipeline.model.turns import turn

LOGITS = 1 << 25
"""Most logits held at once: 128 MiB of float32 (ours)."""


def logprobs(network: Network, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """log p(token t | tokens before t), natural, float32, length n - 1 for n tokens."""
    room = max(1, LOGITS // network.size)
    out = [np.zeros(max(len(ids) - 1, 0), np.float32) for ids in sequences]
    for rows in _portions([len(ids) - 1 for ids in sequences], room):
        store = network.store(len(rows), max(len(sequences[r]) for r in rows))
        for start in range(0, store.places - 1, room):
            parts = [_part(k, sequences[r], start, room) for k, r in enumerate(rows)]
            with turn(str(network.device)):
                found = _of_targets(network.run(store, parts), parts, [sequences[r] for r in rows])
            for r, part, values in zip(rows, parts, found, strict=True):
                out[r][start : start + len(part.ids)] = values.cpu().numpy()
    return out


def of_prompt(
    logits: torch.Tensor, ids: Sequence[int], part: Part, sampling: Sampling
) -> tuple[list[float], list[dict[int, float] | None]]:
    """Log-probabilities, and the likeliest tokens, of the tokens behind each of a part's, as far as
    the prompt goes. logits: (tokens of the part, V)."""
    targets = ids[part.start + 1 : part.start + 1 + len(part.ids)]
    if not targets:
        return [], []
    values = logits[: len(targets)].log_softmax(-1)
    found = values.gather(-1, torch.tensor(targets, device=values.device)[:, None])[:, 0]
    return found.tolist(), likeliest(values, [sampling.top_logprobs] * len(targets))


def _portions(lengths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Row numbers, shortest first, in portions of at most `room` tokens, or of one text; texts
    without a token to score are in none."""
    part: list[int] = []
    size = 0
    for row in sorted((r for r, n in enumerate(lengths) if n > 0), key=lambda r: lengths[r]):
        if part and size + lengths[row] > room:
            yield part
            part, size = [], 0
        part.append(row)
        size += lengths[row]
    if part:
        yield part


def _part(slot: int, ids: Sequence[int], start: int, room: int) -> Part:
    """The next tokens of a text, without its last one: nothing follows that."""
    piece = ids[start : min(start + room, len(ids) - 1)]
    return Part(slot, start, piece, len(piece))


def _of_targets(
    logits: torch.Tensor, parts: Sequence[Part], texts: Sequence[Sequence[int]]
) -> Sequence[torch.Tensor]:
    targets = [
        i
        for p, ids in zip(parts, texts, strict=True)
        for i in ids[p.start + 1 : p.start + 1 + len(p.ids)]
    ]
    wanted = torch.tensor(targets, device=logits.device)
    loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    return (-loss).split([len(p.ids) for p in parts])
