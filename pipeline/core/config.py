"""Settings as frozen dataclasses, checked by pydantic at the edge.

A box writes `@config class Config` with a docstring under each field; that text is the reference,
the JSON Schema and the `--help`. Unknown keys are refused with a near miss.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, dataclass_transform

from pipeline.core.errors import RecipeError, did_you_mean

if TYPE_CHECKING:  # a training started without a recipe needs no pydantic
    from pydantic import TypeAdapter

T = TypeVar("T")
_SCALE = {"": 1, "K": 10**3, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}


def count(value: Any) -> Any:
    """`"12.5B"` -> 12_500_000_000; numbers pass; anything else is left for pydantic to refuse."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(
        r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]+)?)\s*([kKMGBT]?)\s*", value
    )
    number = float(match[1].replace("_", "")) * _SCALE[match[2]] if match else math.inf
    return round(number) if math.isfinite(number) else value


def share(value: Any) -> Any:
    """`"0.5%"` -> 0.005; numbers pass."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


class Before:
    """Says of a type that pydantic is to apply `function` to what was written, before all else; and,
    of a number, its bounds (`ge`, `le`)."""

    def __init__(self, function: Callable[[Any], Any], **bounds: float) -> None:
        self.function, self.bounds = function, bounds

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(self.function, handler(source) | self.bounds)


Tokens = Annotated[int, Before(count)]
"""A number of tokens: `500B`, `12.5B`, `5M` or a plain integer (PyYAML reads `5e9` as text)."""
Bytes = Annotated[int, Before(count)]
"""A number of bytes, decimal units: `40M`, `1.5G`."""
Share = Annotated[float, Before(share, ge=0, le=1)]
"""A fraction, `0.005` or `0.5%`."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """A frozen keyword-only dataclass whose fields pydantic validates; unknown keys are errors."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}  # type: ignore[attr-defined]
    return made


def adapter(cls: type[T]) -> "TypeAdapter[T]":
    """The validator of one configuration class (also gives its JSON Schema)."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def parse(cls: type[T], settings: dict[str, Any], where: str) -> T:
    """`settings` as a `cls`; every problem in one RecipeError, each line led by `where`."""
    from pydantic import ValidationError

    try:
        made = adapter(cls).validate_python(settings)
    except ValidationError as e:
        raise RecipeError("\n".join(f"{where}: {_explain(cls, p)}" for p in e.errors())) from None
    for key, value in settings.items():
        if isinstance(value, bool) and not isinstance(getattr(made, key), bool):
            raise RecipeError(f"{where}: {key} is {str(value).lower()}: a number is wanted")
    return made


def _explain(cls: type, problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "unexpected_keyword_argument":
            known = [f.name for f in dataclasses.fields(cls)] if "." not in key else []
            return f"no setting {key!r}{did_you_mean(key, known)}"
        case "missing" | "missing_keyword_only_argument":
            return f"{key} is required"
    if problem["type"] == "value_error" and not key:
        return str(problem["ctx"]["error"])
    return f"{key} is {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def plain(value: Any) -> Any:
    """`value` as JSON data with a stable form; raises TypeError on anything that has none.

    A setting whose field's metadata says `identity: False` cannot change what is made: it is left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        told = [f.name for f in dataclasses.fields(value) if f.metadata.get("identity", True)]
        return {name: plain(getattr(value, name)) for name in told}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{value!r} has no stable form")


def canonical(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces. What identity hashes are taken over."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
