"""Our own tasks: well formed, solved by their solutions, and by nothing that returns nothing."""

import json
from pathlib import Path

import pytest

import pipeline
from pipeline.core import sandbox
from pipeline.core.sandbox import Program, run
from pipeline.kernels.mutate import mutants

TASKS = [
    json.loads(line)
    for line in (Path(pipeline.__path__[0]) / "suites" / "icefloe.jsonl").read_text().splitlines()
]
needs_sandbox = pytest.mark.skipif(sandbox.tier().name == "none", reason=sandbox.tier().reason)


def test_tasks_are_well_formed() -> None:
    keys = {"task_id", "prompt", "canonical_solution", "test", "entry_point"}
    assert all(set(t) == keys for t in TASKS)
    assert [t["task_id"] for t in TASKS] == [f"icefloe/{i}" for i in range(len(TASKS))]
    assert len({t["entry_point"] for t in TASKS}) == len(TASKS) == 32
    for t in TASKS:
        assert t["prompt"].startswith(f"def {t['entry_point']}(")
        assert t["prompt"].endswith('"""\n')
        assert f">>> {t['entry_point']}(" in t["prompt"]


@needs_sandbox
def test_solutions_pass_and_empty_ones_fail() -> None:
    right = [
        Program(t["prompt"] + t["canonical_solution"], t["test"], t["entry_point"]) for t in TASKS
    ]
    empty = [Program(t["prompt"] + "    return None\n", t["test"], t["entry_point"]) for t in TASKS]
    found = [v.status for v in run(right + empty)]
    assert found == ["pass"] * len(TASKS) + ["fail"] * len(TASKS)


@needs_sandbox
def test_most_mutants_fail() -> None:
    """A mutant that still passes is an equivalent one; more than a few would blunt the ranking."""
    programs = [
        Program(source, t["test"], t["entry_point"])
        for t in TASKS
        for source in mutants(t["prompt"] + t["canonical_solution"], 3, seed=0)
    ]
    passed = sum(v.status == "pass" for v in run(programs, seconds=1))
    assert len(programs) > 80
    assert passed <= 0.1 * len(programs)
