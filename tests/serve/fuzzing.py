"""Schemathesis on the app's own description: bodies that fit it, and bodies that nearly do.

Left out of its checks are `negative_data_rejection` (a field that no route knows is accepted, which is
said in a header) and `positive_data_acceptance` (a description cannot say how long a context is).
"""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


def operations(schema: Any) -> dict[str, Any]:
    """What can be asked, by method and path."""
    found = [result.ok() for result in schema.get_all_operations()]
    return {operation.label: operation for operation in found}


def fuzz(operation: Any, examples: int, start: int = 0) -> Counter[int]:
    """How so many requests ended, by status. Raises what schemathesis found, with the smallest body."""
    seen = Counter[int]()
    modes = [GenerationMode.POSITIVE]
    if operation.body:
        modes.append(GenerationMode.NEGATIVE)
    for mode in modes:

        @seed(start)
        @settings(
            max_examples=max(1, examples // len(modes)),
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            answer = case.call(timeout=120)
            seen[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        ask()
    return seen
