"""The annotator's training: the bytes it writes, that it learns, and which encoders it refuses."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification
from transformers import pipeline as transformers_pipeline

from pipeline.core.config import parse
from pipeline.core.errors import RecipeError, StageError
from pipeline.model import encoder
from pipeline.model.encoder import train_annotator
from pipeline.model.scorer import Scorer
from pipeline.model.settings import EncoderConfig
from tests.tiny import TEXTS, tiny_annotator_folder, tiny_tokenizer

SMALL: dict[str, Any] = {
    "window": 24,
    "hidden": 32,
    "layers": 1,
    "epochs": 4,
    "batch": 8,
    "lr": 5e-3,
    "threads": 1,
}


def files(count: int = 48) -> tuple[list[str], list[int]]:
    """Python files are good, JavaScript is the corpus."""
    labels = [k % 2 for k in range(count)]
    texts = [
        (TEXTS[k // 2 % 4] if label else TEXTS[4]) * (1 + k % 5) for k, label in enumerate(labels)
    ]
    return texts, labels


def digests(folder: Path) -> dict[str, str]:
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def trained(tokenizer_json: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("annotator")
    report = train_annotator(*files(), tokenizer_json, EncoderConfig(**SMALL), folder)
    return folder, report


def test_it_learns(trained: tuple[Path, dict]) -> None:
    folder, report = trained
    assert report["windows"] > 48
    assert report["loss_last"] < 0.6
    scores = [found.score for found in Scorer(folder).score(files()[0])]
    assert min(scores[1::2]) > max(scores[::2])


def test_the_folder_is_a_scorers_and_transformers(trained: tuple[Path, dict]) -> None:
    folder, _ = trained
    scorer = Scorer(folder)
    good, rest = scorer.score([TEXTS[0], TEXTS[4]])
    assert good.score > 0.5 > rest.score
    card = json.loads((folder / "annotator.json").read_text())
    assert card == {
        "name": "annotator-bert-1x32", "kind": "encoder", "column": "quality", "window": 24,
    }  # fmt: skip
    plain = transformers_pipeline("text-classification", model=str(folder), top_k=None)
    scores = {s["label"]: s["score"] for s in plain([TEXTS[0]])[0]}
    assert scores["LABEL_1"] == pytest.approx(good.score, abs=1e-5)


def test_the_same_inputs_give_the_same_bytes(
    tokenizer_json: Path, trained: tuple[Path, dict], tmp_path: Path
) -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    again = train_annotator(*files(), tokenizer_json, EncoderConfig(**SMALL), tmp_path)
    assert digests(tmp_path) == digests(trained[0])
    assert again == trained[1]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_gives_other_weights(
    tokenizer_json: Path, trained: tuple[Path, dict], tmp_path: Path
) -> None:
    cfg = EncoderConfig(**{**SMALL, "seed": 1, "epochs": 1})
    train_annotator(*files(), tokenizer_json, cfg, tmp_path)
    assert digests(tmp_path)["model.safetensors"] != digests(trained[0])["model.safetensors"]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_named_encoder_brings_its_own_tokenizer(tmp_path: Path, frozen: bool) -> None:
    base = tiny_annotator_folder(tmp_path / "base", window=48)
    cfg = EncoderConfig(encoder=str(base), window=32, frozen=frozen, epochs=1, lr=1e-2, threads=1)
    train_annotator(*files(), tmp_path / "unused.json", cfg, tmp_path / "out")
    train_annotator(*files(), tmp_path / "unused.json", cfg, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "out")
    start, end = Scorer(base), Scorer(tmp_path / "out")
    assert (end.name, end.window) == ("annotator-base", 32)
    changed = {
        name
        for name, weight in end.model.named_parameters()
        if not torch.equal(weight, start.model.get_parameter(name))
    }
    assert {n.split(".")[0] for n in changed} == {"bert", "classifier"}
    assert all("pooler" in n or "classifier" in n for n in changed) is frozen


def test_a_window_longer_than_the_encoders_is_named(tmp_path: Path) -> None:
    base = tiny_annotator_folder(tmp_path / "base", window=16)
    cfg = EncoderConfig(encoder=str(base), window=32)
    with pytest.raises(StageError, match=r"window 32 is too long for .*at most 16"):
        train_annotator(*files(), tmp_path / "unused.json", cfg, tmp_path / "out")


def test_a_frozen_encoder_read_once_trains_as_one_read_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_annotator_folder(tmp_path / "base", window=32)
    cfg = EncoderConfig(encoder=str(base), window=32, frozen=True, epochs=2, lr=1e-2, threads=1)
    once = train_annotator(*files(), tmp_path / "x", cfg, tmp_path / "once")
    monkeypatch.setattr(encoder, "_frozen", encoder._whole)
    every = train_annotator(*files(), tmp_path / "x", cfg, tmp_path / "every")
    assert once["loss_last"] == pytest.approx(every["loss_last"], abs=1e-4)
    left, right = (Scorer(tmp_path / name).score(TEXTS) for name in ("once", "every"))
    assert [s.score for s in left] == pytest.approx([s.score for s in right], abs=1e-4)


def test_roberta_s_positions_begin_after_its_padding(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path / "tokenizer.json")
    cfg = RobertaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=1,
                        intermediate_size=16, max_position_embeddings=34, pad_token_id=1)  # fmt: skip
    assert encoder._longest(RobertaForSequenceClassification(cfg), 99) == 32


def test_an_encoder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    base = tiny_annotator_folder(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    cfg = EncoderConfig(encoder=str(base), window=32)
    with pytest.raises(StageError, match=r"base: no tokenizer with a fast form .*name a folder"):
        train_annotator(*files(), tmp_path / "unused.json", cfg, tmp_path / "out")


def test_an_encoder_that_is_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cfg = EncoderConfig(encoder="nobody/no-such-encoder")
    with pytest.raises(StageError, match="encoder nobody/no-such-encoder: no tokenizer could be"):
        train_annotator(*files(), tmp_path / "unused.json", cfg, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"encoder": "some/name", "hidden": 96}, "hidden: only for the small encoder"),
        ({"hidden": 65}, "65 is no multiple of heads 2"),
        ({"held_out": "100%"}, "held_out is 1.0"),
        ({"window": 1}, "window is 1"),
        ({"heads": 0}, "heads is 0: 1 or more"),
        ({"hiden": 64}, "did you mean 'hidden'"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(EncoderConfig, settings, "annotator")
