"""The app's own description, honest about every answer: refusals in their one shape, streams, the key.

FastAPI knows of the routes' own answers only; what stands before them is added here. Knows nothing
of how a route answers.
"""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from serve.guard import OPEN

EVERYWHERE = (405, 500)
GUARDED = (400, 401, 403, 404, 408, 413, 429, 431, 503, 504)
"""What may stand between a request and its route."""
WITH_BODY = (422,)

EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
"""One event of a stream, as OpenAPI 3.2 describes them."""


class Error(BaseModel):
    """What went wrong; `message` says what to send instead."""

    message: str
    type: str
    param: str | None
    """The field that is meant, where it is one."""
    code: str | None


class Envelope(BaseModel):
    """The one shape of a refusal."""

    error: Error


def describe(app: FastAPI) -> None:
    """Have `app.openapi()` tell all of it."""
    plain = app.openapi

    def told() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(plain())
        return plain()

    app.openapi = told  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    parts = document.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    envelope = Envelope.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= envelope.pop("$defs") | {"Envelope": envelope}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete_one(path, operation, schemas)


def _complete_one(path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    codes = [*EVERYWHERE, *(() if path in OPEN else GUARDED)]
    codes += WITH_BODY if "requestBody" in operation else ()
    codes += (503,) if path == "/ready" else ()
    told = operation["responses"]
    told.pop("422", None)
    told |= {str(code): _refusal(code) for code in sorted(set(codes))}
    if path not in OPEN:
        operation["security"] = [{"key": []}, {}]  # none where no key is set
    if "stream" in _fields(operation, schemas):
        told["200"]["content"]["text/event-stream"] = {"schema": EVENT}


def _refusal(code: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Envelope"}
    return {
        "description": HTTPStatus(code).phrase,
        "content": {"application/json": {"schema": schema}},
    }


def _fields(operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The properties of its body."""
    content = operation.get("requestBody", {}).get("content", {})
    name = content.get("application/json", {}).get("schema", {}).get("$ref", "").split("/")[-1]
    found: dict[str, Any] = schemas.get(name, {}).get("properties", {})
    return found
