"""Held-out bits per byte in the loop are those that an evaluation of the checkpoint gives, and
measuring them changes nothing of the training, also when it is stopped."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from pipeline.model import architectures, bits, checkpoint
from pipeline.model.engine import load
from pipeline.model.fit import fit
from tests.packed import CONFIG, LENGTH, VOCABULARY, batches
from tests.tiny import TEXTS, tiny_tokenizer

BY_LANGUAGE = {
    "JavaScript": [TEXTS[4]],
    "Python": [TEXTS[0], TEXTS[1] * 9, TEXTS[3]],
    "Empty": [""],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny_tokenizer(path, VOCABULARY)
    return path


def trained(
    folder: Path, tokenizer: Path | None, data: Path, on_step: Any = lambda line: None
) -> tuple[Any, dict[str, Any]]:
    """A model trained with (or without) measurements every five steps, and the summary."""
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=3)
    read = tokenizer and Tokenizer.from_file(str(tokenizer))
    held = bits.slices(BY_LANGUAGE, read, LENGTH) if read else {}
    cfg = replace(CONFIG, heldout_every=5, micro=3 * LENGTH)
    return model, fit(model, batches(data), cfg, folder=folder, slices=held, on_step=on_step)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_is_what_evaluate_measures(tokenizer: Path, tmp_path: Path) -> None:
    from pipeline.evaluate import bits_per_byte

    model, summary = trained(tmp_path, tokenizer, tmp_path / "data")
    checkpoint.publish(model, tmp_path / "model", tokenizer, {"infill": False})
    engine = load(tmp_path / "model", threads=1)
    wanted = {k: bits_per_byte(engine, v) for k, v in BY_LANGUAGE.items() if any(v)}
    assert summary["heldout"] == pytest.approx(wanted, rel=1e-6)
    assert [x["step"] for x in lines(tmp_path) if "heldout" in x] == [4, 9, 11]
    assert lines(tmp_path)[-1]["heldout"] == summary["heldout"]


def test_measuring_changes_nothing_and_a_stop_changes_no_measure(
    tokenizer: Path, tmp_path: Path
) -> None:
    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 10:
            raise KeyboardInterrupt

    trained(tmp_path / "without", None, tmp_path / "data")
    trained(tmp_path / "calm", tokenizer, tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "rough", tokenizer, tmp_path / "data", stop)
    trained(tmp_path / "rough", tokenizer, tmp_path / "data")
    told = [[(x["loss"], x.get("heldout")) for x in lines(tmp_path / n)] for n in ("calm", "rough")]
    assert told[0] == told[1]
    assert [x["loss"] for x in lines(tmp_path / "without")] == [loss for loss, _ in told[0]]


def test_windows_fill_the_context_and_lose_no_token() -> None:
    cut = bits.windows([[1, 2, 3, 4, 5], [6], []], context=3, end=0)
    assert cut == [[0, 1, 2], [0, 3, 4], [0, 5], [0, 6]]
    assert bits.bits(nats=1.3862943611198906, size=2) == pytest.approx(1.0)
