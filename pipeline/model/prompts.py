"""From text to the token ids that a model is asked to continue: plain, or laid out around a gap.

The infill layout is PSM, or CodeGen2's for a model that learnt that one alone; other files stand before
it as they do in the index. Every engine uses it. Knows nothing of models' weights.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pipeline.core.schema import (
    END,
    FILE_SEP,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    MASK,
    SEP,
    SPECIALS,
    specials,
)

_MASKS = 1000
"""Mask sentinels that may be a tokenizer's (CodeGen2's has 899)."""


def card(folder: str | Path) -> dict[str, Any]:
    """A model folder's icefloe.json; {} if it has none."""
    path = Path(folder) / "icefloe.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def sentinels(tokenizer: Tokenizer, ends: Iterable[int] = ()) -> frozenset[int]:
    """The ids that end a completion: every special there is, and the model's own `ends`."""
    named = [tokenizer.token_to_id(s) for s in specials(_MASKS)]
    return frozenset(i for i in [*named, *ends] if i is not None)


class Prompts:
    """Lays out prompts for one model: `info` is its card, `context` its most tokens, `size` its
    vocabulary's entries."""

    def __init__(self, folder: str | Path, context: int, size: int) -> None:
        path = str(Path(folder) / "tokenizer.json")
        self.tokenizer, self.literal = Tokenizer.from_file(path), Tokenizer.from_file(path)
        self.literal.encode_special_tokens = True
        self.info, self.context, self.size = card(folder), context, size

    def lay(
        self, prefix: str, suffix: str | None = None, extra: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """The ids to complete: `prefix` as it is, or the infill layout around the gap.

        Alone, `prefix` may name sentinels (editors send their own infill templates) and an empty
        one starts a new document; beside a suffix both are plain text, and so is all of `extra`, whose
        files (name, text) are left out for a model without a sentinel between files. ValueError if
        the model was not trained to infill, or if no place is left for an answer.
        """
        before = self._files(extra)
        if suffix is None:
            ids = self.tokenizer.encode(prefix, add_special_tokens=False).ids
            return self.fits([*before, *ids] or [self._id(END)])
        if not self.info.get("infill"):
            name = repr(self.info.get("model", "?"))
            raise ValueError(f"model {name} was not trained to infill: send no suffix")
        return self.fits([*before, *self._gap(prefix, suffix)])

    def fits(self, ids: Sequence[int]) -> list[int]:
        """`ids` as a list; ValueError unless a model can be asked to continue them."""
        if not ids:
            raise ValueError("a prompt needs at least one token; an empty text gives one")
        if len(ids) >= self.context:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, the model's context is {self.context}"
            )
        return self.known(ids)

    def scorable(self, sequences: Iterable[Sequence[int]]) -> None:
        """ValueError for a sequence that is longer than the context, or has an unknown id."""
        for ids in sequences:
            if len(ids) > self.context:
                raise ValueError(
                    f"a sequence has {len(ids)} tokens, the model's context is {self.context}"
                )
            self.known(ids)

    def known(self, ids: Iterable[int]) -> list[int]:
        """`ids` as a list; ValueError for one that the model has no embedding of."""
        if bad := sorted({i for i in ids if not 0 <= i < self.size}, reverse=True):
            raise ValueError(f"token ids {bad} are not in the vocabulary of {self.size}")
        return list(ids)

    def _gap(self, prefix: str, suffix: str) -> list[int]:
        before, after = self.literal.encode_batch([prefix, suffix], add_special_tokens=False)
        if self.info.get("spans"):  # CodeGen2: <mask_1> for the gap, and asked for at the end
            end, ask, mask = map(self._id, (END, SEP, MASK))
            return [*before.ids, mask, *after.ids, end, ask, mask]
        head, gap, tail = map(self._id, (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE))
        return [head, *before.ids, gap, *after.ids, tail]

    def _files(self, extra: Sequence[tuple[str, str]]) -> list[int]:
        """The texts of `extra`, each followed by the sentinel between files. Their names are left out:
        the index lays files of a repository out without any."""
        between = self.tokenizer.token_to_id(SPECIALS[FILE_SEP])
        if not extra or between is None:
            return []
        parts = self.literal.encode_batch([t for _, t in extra], add_special_tokens=False)
        return [i for part in parts for i in (*part.ids, between)]

    def _id(self, special: int) -> int:
        """The id of a special token in this model's tokenizer (ours has them first)."""
        found = self.tokenizer.token_to_id(specials(1)[special])
        if found is None:
            raise ValueError(f"the tokenizer has no {specials(1)[special]}")
        return int(found)
