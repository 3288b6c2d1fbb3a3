"""Bodies made from the app's own description, and broken ones: no 5xx, and every answer is as described.

`tests/drills/test_serve_fuzz.py` is the long run.
"""

from collections.abc import Iterator
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="fuzzing: pip install 'schemathesis>=4'")

from serve.app import api  # noqa: E402
from serve.state import State  # noqa: E402
from tests.serve.fuzzing import fuzz, operations  # noqa: E402
from tests.serve.live import serving  # noqa: E402


@pytest.fixture(scope="module")
def schema(state: State) -> Iterator[Any]:
    with serving(api(state)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_no_answer_is_a_surprise(schema: Any) -> None:
    seen = {name: fuzz(operation, 10) for name, operation in operations(schema).items()}
    assert all(seen.values())
    posted = [found for name, found in seen.items() if name.startswith("POST")]
    assert sum(found[200] for found in posted) > 20  # most would mean that it reaches no route


def test_the_description_is_a_description(schema: Any) -> None:
    schema.validate()
