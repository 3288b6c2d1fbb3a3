"""kill -9 at random moments of a recipe, Ray and training included: run again, same bytes.

The curation steps alone, in many small shards, then the whole recipe.

ICEFLOE_DRILL_KILLS says how many (20). A result is written as soon as there is one, so a drill that
is cut short goes on where it was; `tests/bench/RESULTS/kill.jsonl` holds them.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import runs
from cluster.verify import problems
from pipeline.core.store import Store
from tests.corpus import repositories
from tests.running import curation, recipe_file, whole

RESULTS = Path(__file__).parents[1] / "bench/RESULTS/kill.jsonl"
KILLS = int(os.environ.get("ICEFLOE_DRILL_KILLS", "20"))


def command(recipe: str, store: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "cluster.cli",
        "run",
        recipe,
        "--store",
        str(store),
        "--workers",
        "2",
    ]


def digests(store: Path, name: str) -> dict[str, str]:
    return {e["step"]: e["digest"] for e in runs.steps(Store(str(store)), name)}


RECIPES = {"curation": curation, "whole": whole}


@pytest.fixture(scope="module", params=RECIPES)
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, str], float]:
    """(recipe, digests of an undisturbed run, how long it took)."""
    folder = tmp_path_factory.mktemp(request.param)
    steps = RECIPES[request.param](repositories(folder / "source", 8))
    recipe = recipe_file(folder / f"{request.param}.yaml", steps)
    subprocess.run(command(recipe, folder / "warm"), check=True)  # what is compiled once a machine
    began = time.monotonic()
    subprocess.run(command(recipe, folder / "store"), check=True)
    return recipe, digests(folder / "store", request.param), time.monotonic() - began


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_and_run_again(
    number: int, undisturbed: tuple[str, dict[str, str], float], tmp_path: Path
) -> None:
    recipe, wanted, seconds = undisturbed
    name = Path(recipe).stem
    after = random.Random(number).uniform(0.02, 0.98) * seconds
    child = subprocess.Popen(command(recipe, tmp_path / "store"), start_new_session=True)
    time.sleep(after)
    killed = child.poll() is None
    child.kill()  # nothing where it has ended by itself
    child.wait()
    at = len(list((tmp_path / "store").glob(f"runs/{name}/*.json")))
    subprocess.run(command(recipe, tmp_path / "store"), check=True)
    found = digests(tmp_path / "store", name)
    same = {step: found[step] == digest for step, digest in wanted.items()}
    bad = problems(Store(str(tmp_path / "store")), name)[0]
    with open(RESULTS, "a") as f:
        told = {
            "recipe": name,
            "kill": number,
            "after_s": round(after, 1),
            "killed": killed,
            "steps_done": max(0, at - 1),
            "same": all(same.values()),
            "problems": len(bad),
        }
        f.write(json.dumps(told) + "\n")
    assert all(same.values()), [step for step, equal in same.items() if not equal]
    assert bad == []
