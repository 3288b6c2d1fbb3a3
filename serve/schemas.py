"""What every request body has in common.

A field that is not listed is accepted, has no effect, and is named in the response header
`x-icefloe-ignored`; with `strict` it is refused instead. A null counts as not sent.
"""

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from serve.guard import Refusal


def _encodable(text: str) -> str:
    """JSON can spell half a surrogate pair, which no tokenizer takes and no answer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half a surrogate pair: send whole characters") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Ids = Annotated[list[int], Field(min_length=1)]


class Part(BaseModel):
    """A part of a request body."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


class Body(Part):
    """A request body."""

    model: Text | None = None
    """The id that `/v1/models` lists; may be left out."""
    strict: bool = False
    """Refuse fields that have no effect instead of naming them in a header."""


def name_unknown(body: Body, response: Response) -> None:
    """Tell the client which of its fields had no effect. Refusal 422 where the body is `strict`."""
    names = unknown(body)
    if names and body.strict:
        message = f"no effect here: {', '.join(map(repr, names))}; leave out, or drop `strict`"
        raise Refusal(422, message, names[0], "unknown_field")
    if names:
        response.headers["x-icefloe-ignored"] = ", ".join(quote(n, errors="replace") for n in names)


def unknown(body: BaseModel, prefix: str = "") -> list[str]:
    """The fields of a request that have no effect, dotted, each once."""
    found = {f"{prefix}{name}": None for name in body.model_extra or {}}
    for name in type(body).model_fields:
        value = getattr(body, name)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, BaseModel):
                found |= dict.fromkeys(unknown(part, f"{prefix}{name}."))
    return list(found)
