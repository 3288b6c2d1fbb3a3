"""metrics.jsonl's lines reach TensorBoard, Weights & Biases and MLflow under their steps, a restart goes on
with the same run, and a library that is missing is named before training.

The last two are no dependencies of the tests: `pip install wandb mlflow`, and they run.
"""

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.config import plain
from pipeline.core.errors import RecipeError
from pipeline.model import loggers
from tests.packed import CONFIG, train


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 (it is the package we think)

    train(folder=tmp_path, log_to=("tensorboard",))
    (path,) = (tmp_path / "logs" / "tensorboard").iterdir()
    found: dict[str, list[int]] = {}
    for blob in records(path.read_bytes()):
        event = Event.FromString(blob)
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    assert found["loss"] == list(range(12))
    assert {"lr", "grad_norm", "tokens", "skipped", "wait", "memory"} <= found.keys()


def records(data: bytes) -> list[bytes]:
    """The records of a TensorFlow event file: length, its checksum, content, its checksum."""
    out, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        out.append(data[at + 12 : at + 12 + length])
        at += 16 + length
    return out


def twice(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Train, stopped at step 7, and go on; the lines of metrics.jsonl."""

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder=folder, log_to=(kind,), on_step=stop)
    train(folder=folder, log_to=(kind,))
    return lines_of(folder)


def test_wandb_has_one_run_of_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wanted = twice(tmp_path, "wandb")
    mine = ["ps", "-o", "comm=", "--ppid", str(os.getpid())]
    left = subprocess.run(mine, capture_output=True, text=True, check=False).stdout
    assert "wandb" not in left  # it would write into files that are hashed by now
    files = sorted(tmp_path.glob("logs/wandb/wandb/offline-run-*/*.wandb"))
    assert len(files) == 2  # a life's each; `wandb sync` makes one run of them
    assert len({path.name for path in files}) == 1
    told = [line for path in files for line in history(path)]
    assert {x["_step"]: x["loss"] for x in told} == {x["step"]: x["loss"] for x in wanted}
    assert {"lr", "grad_norm", "tokens", "skipped", "wait", "memory"} <= told[0].keys()
    for path in files:
        (begun,) = (r.run for r in records_of(path) if r.HasField("run"))
        config = {c.key: json.loads(c.value_json) for c in begun.config.update}
        assert (begun.display_name, config["batch"]) == ("train", CONFIG.batch)
        assert config["schedule"] == plain(CONFIG)["schedule"]


def test_wandb_without_a_key_is_refused_before_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key would lie
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(RecipeError, match=r"log_to is wandb, which does not begin: .*WANDB_MODE"):
        train(folder=tmp_path, log_to=("wandb",))
    assert not lines_of(tmp_path)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def records_of(path: Path) -> list[Any]:
    """What wandb has written into a file of its own: LevelDB's log, whose blocks of 32 KiB hold chunks
    (checksum, length, whether it is a record's last or whole) after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, joined, out = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := -at % 32768) < 7 and left:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        joined += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            out.append(Record.FromString(joined))
            joined = b""
    return out


def history(path: Path) -> list[dict[str, Any]]:
    """The lines that were logged."""
    found = [r.history for r in records_of(path) if r.HasField("history")]
    return [
        {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in x.item} for x in found
    ]


def test_mlflow_has_one_run_of_every_step_in_the_phases_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for phase in ("phase1", "phase2"):  # in one process, as a recipe runs them
        wanted = twice(tmp_path / phase, "mlflow")
        assert "MLFLOW_TRACKING_URI" not in os.environ
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / phase}/logs/mlflow/mlflow.db")
        (run,) = client.search_runs(["0"])
        assert (run.info.run_name, run.info.status) == ("train", "FINISHED")
        assert run.data.params["batch"] == str(CONFIG.batch)
        assert run.data.params["schedule.peak"] == str(CONFIG.schedule.peak)
        told = client.get_metric_history(run.info.run_id, "loss")
        assert {x.step: x.value for x in told} == {x["step"]: x["loss"] for x in wanted}
        assert {"lr", "grad_norm", "tokens", "skipped", "wait", "memory"} <= run.data.metrics.keys()


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_missing_library_is_named(kind: str, tmp_path: Path) -> None:
    if find_spec(kind):
        pytest.skip(f"{kind} is installed")
    with pytest.raises(
        RecipeError, match=rf"{kind} is not installed: pip install 'icefloe\[{kind}\]'"
    ):
        train(folder=tmp_path, log_to=(kind,))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_where_it_is_logged_to_is_no_part_of_the_identity() -> None:
    from dataclasses import replace

    assert plain(replace(CONFIG, log_to=("tensorboard",))) == plain(CONFIG)


def test_numbers_are_flat() -> None:
    line = {"step": 3, "loss": 2.0, "heldout": {"C++": 1.5}}
    assert loggers.numbers(line) == {"loss": 2.0, "heldout/C++": 1.5}
