"""A text's vector is what transformers gives for its windows, whatever else is in the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pipeline.core.errors import StageError
from pipeline.model.scorer import windows
from pipeline.model.vectors import Reader, publish
from tests.tiny import TEXTS, tiny_annotator_folder, tiny_model_folder

LONG = "".join(TEXTS) * 9
KINDS = {"causal": tiny_model_folder, "encoder": tiny_annotator_folder}


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return KINDS[request.param](tmp_path / "source")


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_vectors_are_those_of_transformers(source: Path, tmp_path: Path, pool: Any) -> None:
    window = publish(str(source), 24, tmp_path / "judge")
    reader = Reader(tmp_path / "judge", window, pool)
    texts = [*TEXTS, LONG, "x", ""]
    found, seen = reader.vectors(texts, located=True)
    model = AutoModel.from_pretrained(source).eval()
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, plainly(model, reader, text, pool), atol=2e-5)
    assert [s.truncated for s in seen] == [text == LONG for text in texts]
    assert all(
        s.spans[0][0] == 0 and s.spans[-1][1] == len(t) for s, t in zip(seen, texts, strict=True)
    )


def plainly(model: Any, reader: Reader, text: str, pool: str) -> Any:
    """One window at a time, nothing padded."""
    pooled = []
    for ids in windows(reader.tokenizer, [text], reader.window)[0][0]:
        with torch.inference_mode():
            given = torch.tensor([ids.tolist() or [0]])
            hidden = model(input_ids=given).last_hidden_state[0]
        pooled.append({"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}[pool])
    return torch.stack(pooled).mean(0).numpy()


def test_no_texts(source: Path, tmp_path: Path) -> None:
    window = publish(str(source), None, tmp_path / "judge")
    assert Reader(tmp_path / "judge", window, "mean").vectors([])[0].shape == (0, 32)


def test_the_window_is_the_models_own_unless_told(tmp_path: Path) -> None:
    source = tiny_model_folder(tmp_path / "source", context=96)
    assert publish(str(source), None, tmp_path / "a") == 96
    assert publish(str(source), 40, tmp_path / "b") == 40
    with pytest.raises(StageError, match=r"window 97 is too long .* at most 96"):
        publish(str(source), 97, tmp_path / "c")


@pytest.mark.parametrize(
    ("missing", "told"),
    [("tokenizer.json", "no tokenizer"), ("model.safetensors", "no safetensors model")],
)
def test_a_folder_that_lacks_something(tmp_path: Path, missing: str, told: str) -> None:
    source = tiny_model_folder(tmp_path / "source")
    (source / missing).unlink()
    if missing == "model.safetensors":
        torch.save({}, source / "pytorch_model.bin")  # a pickle is never read
    with pytest.raises(StageError, match=told):
        publish(str(source), None, tmp_path / "judge")
