"""Schemathesis for long, on a real server: bodies that fit the app's description and bodies that nearly do.

ICEFLOE_DRILL_EXAMPLES says how many of each operation (1000). A result is written as soon as there is
one, so a drill that is cut short goes on where it was; `tests/bench/RESULTS/serve_fuzz.jsonl` holds them.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="fuzzing: pip install 'schemathesis>=4'")

from serve.app import api  # noqa: E402
from serve.state import State  # noqa: E402
from tests.bench.servers import Running, ours, started  # noqa: E402
from tests.serve.fuzzing import fuzz, operations  # noqa: E402
from tests.tiny import tiny_annotator_folder, tiny_model_folder  # noqa: E402

RESULTS = Path(__file__).parents[1] / "bench/RESULTS/serve_fuzz.jsonl"
EXAMPLES = int(os.environ.get("ICEFLOE_DRILL_EXAMPLES", "1000"))
NAMES = sorted(operations(schemathesis.openapi.from_asgi("/openapi.json", api(State()))))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    at = tmp_path_factory.mktemp("served")
    model, judge = tiny_model_folder(at / "tiny"), tiny_annotator_folder(at / "judge")
    with started(ours("--model", str(model), "--annotator", str(judge), "--bare"), at) as running:
        yield running


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_is_a_surprise(name: str, server: Running) -> None:
    done = [json.loads(line) for line in RESULTS.open()] if RESULTS.exists() else []
    if name in {line["operation"] for line in done}:
        pytest.skip("has its result")
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen = fuzz(operations(schema)[name], EXAMPLES)
    told = {"operation": name, "asked": sum(seen.values())}
    with RESULTS.open("a") as f:
        f.write(json.dumps(told | {"ends": {str(k): n for k, n in sorted(seen.items())}}) + "\n")
