"""metrics.jsonl's lines reach TensorBoard, and a library that is missing is named before training."""

from importlib.util import find_spec
from pathlib import Path

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
