"""Generated tokens to text as they come: whole characters, ending before the first stop string.

Decodes only the newest tokens, so that a long answer costs a short one's time a token.
Knows nothing of models or sampling.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

_BROKEN = "\ufffd"
"""What tokenizers decode an unfinished character to."""


class Text:
    """One answer's text. `stopped` once it has met a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._tokens: list[int] = []
        self._from, self._until, self._told = 0, 0, 0
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What can be said for certain after one more token; may be empty."""
        self._tokens.append(token)
        return self._cut(self._fresh())

    def end(self) -> str:
        """All that was held back, at the end of the answer."""
        if self.stopped:
            return ""
        rest = self._tokenizer.decode(self._tokens[self._from :])[self._told :]
        return self._before_stop(self._held + rest)

    def _fresh(self) -> str:
        """Whole characters since the last call. Decoding starts a few tokens early, since some
        tokenizers strip the blank before a text's first word."""
        window = self._tokenizer.decode(self._tokens[self._from :])
        whole = window.rstrip(_BROKEN)
        fresh, self._told = whole[self._told :], max(self._told, len(whole))
        if whole == window:
            self._from, self._until = self._until, len(self._tokens)
            self._told = len(self._tokenizer.decode(self._tokens[self._from : self._until]))
        return fresh

    def _cut(self, fresh: str) -> str:
        """`fresh` after what was held, up to a stop string or to what may become one."""
        text = self._before_stop(self._held + fresh)
        if self.stopped:
            return text
        safe = len(text) - max((_begun(text, s) for s in self._stop), default=0)
        self._held = text[safe:]
        return text[:safe]

    def _before_stop(self, text: str) -> str:
        found = [at for s in self._stop if (at := text.find(s)) >= 0]
        self.stopped = bool(found)
        return text[: min(found, default=len(text))]


def _begun(text: str, stop: str) -> int:
    """How much of `stop` the text ends with; a stop string may be a million characters long."""
    most = min(len(text), len(stop) - 1)
    return next((k for k in range(most, 0, -1) if text.endswith(stop[:k])), 0)
