"""Checkpoints are made when they are due, as many are kept as asked for, and the table has them all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.model import kept
from tests.packed import CONFIG, batches, train


def test_due_by_steps_and_by_tokens(tmp_path: Path) -> None:
    fed = batches(tmp_path)
    assert sorted(kept.due(fed, replace(CONFIG, checkpoint_every=5))) == [5, 10, fed.steps]
    every = 300
    marks = kept.due(fed, replace(CONFIG, checkpoint_tokens=every))
    sums = [sum(map(fed.tokens, range(n))) for n in range(fed.steps + 1)]
    filled = [n for n in range(1, fed.steps) if sums[n] // every > sums[n - 1] // every]
    assert sorted(marks) == [*filled, fed.steps]
    assert 3 < len(marks) < fed.steps


def test_all_are_kept_and_in_the_table(tmp_path: Path) -> None:
    summary = train(folder=tmp_path, keep="all", checkpoint_every=4)
    rows = kept.table(tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [4, 8, 12] == [4, 8, summary["steps"]]
    for row in rows:
        last = lines[row["step"] - 1]
        assert (row["phase"], row["tokens"], row["loss"]) == ("train", last["tokens"], last["loss"])
        assert (tmp_path / row["path"] / "state.json").exists()


def test_the_table_has_those_that_are_kept_also_after_a_kill_before_its_row(tmp_path: Path) -> None:
    train(folder=tmp_path, keep=2, checkpoint_every=4)
    before = (tmp_path / kept.TABLE).read_bytes()
    assert [r["step"] for r in kept.table(tmp_path)] == [8, 12]
    rows = kept.table(tmp_path)[:-1]
    (tmp_path / kept.TABLE).write_text(json.dumps(rows))  # as it was when the last was renamed
    train(folder=tmp_path, keep=2, checkpoint_every=4)
    assert (tmp_path / kept.TABLE).read_bytes() == before


def test_settings_are_checked() -> None:
    for wrong in ({"keep": 0}, {"checkpoint_tokens": 0}, {"heldout_every": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is 0: 1 or more"):
            replace(CONFIG, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="skip is 0"):
        replace(CONFIG, skip=0.0)
    with pytest.raises(ValueError, match=r"log_to is .* twice"):
        replace(CONFIG, log_to=("wandb", "wandb"))
