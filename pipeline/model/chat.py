"""A conversation as the text its model continues, by the chat template in the model's folder.

Rendered by transformers' tokenizer in its sandbox; no code of the folder runs. Knows nothing of HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

Render = Callable[[Sequence[Mapping[str, str]]], str]


@lru_cache
def template(folder: str | Path) -> Render | None:
    """Messages (role, content) to the text before the assistant's turn; None where there is no
    template. The rendering raises ValueError for a conversation that the template refuses."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    return None if tokenizer.chat_template is None else lambda said: _render(tokenizer, said)


def _render(tokenizer: object, said: Sequence[Mapping[str, str]]) -> str:
    from jinja2 import TemplateError

    try:
        rendered = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            [dict(m) for m in said], tokenize=False, add_generation_prompt=True
        )
    except TemplateError as e:
        raise ValueError(f"the chat template refuses these messages: {e}") from e
    return str(rendered)
