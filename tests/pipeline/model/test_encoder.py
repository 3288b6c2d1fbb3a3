"""The annotator's training: the split, the AUC, the bytes it writes, and that it learns."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline as transformers_pipeline

from pipeline.core.config import parse
from pipeline.core.errors import RecipeError, StageError
from pipeline.model.encoder import EncoderConfig, auc, split, train_annotator
from pipeline.model.scorer import Scorer
from tests.tiny import TEXTS, tiny_annotator_folder, tiny_tokenizer

SMALL: dict[str, Any] = {
    "window": 24,
    "hidden": 32,
    "layers": 1,
    "mlm_steps": 4,
    "epochs": 4,
    "batch": 8,
    "lr": 5e-3,
    "held_out": 0.25,
    "threads": 1,
}


def files(count: int = 64) -> tuple[list[str], list[int], list[str]]:
    """Python files are good, JavaScript is the corpus; two files a repository."""
    labels = [k % 2 for k in range(count)]
    texts = [(TEXTS[k % 4] if label else TEXTS[4]) * (1 + k % 5) for k, label in enumerate(labels)]
    return texts, labels, [f"repo{k // 2 % (count // 4)}" for k in range(count)]


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


def test_it_learns_and_measures_on_other_repositories(trained: tuple[Path, dict]) -> None:
    _, report = trained
    assert report["auc"] > 0.9
    low, high = report["auc_interval"]
    assert 0 <= low <= report["auc"] <= high <= 1
    assert report["held_out"] == [8, 8]
    assert report["train"] == [24, 24]
    assert report["loss_last"] < 0.6
    assert np.isfinite(report["mlm_loss"])


def test_the_folder_is_a_scorers_and_transformers(trained: tuple[Path, dict]) -> None:
    folder, report = trained
    scorer = Scorer(folder)
    good, rest = scorer.score([TEXTS[0], TEXTS[4]])
    assert good.score > 0.5 > rest.score
    card = json.loads((folder / "annotator.json").read_text())
    assert card == {"name": "annotator-bert-1x32", "window": 24, "auc": report}
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
    cfg = EncoderConfig(**{**SMALL, "seed": 1, "mlm_steps": 0, "epochs": 1})
    report = train_annotator(*files(), tokenizer_json, cfg, tmp_path)
    assert report["mlm_loss"] is None
    assert digests(tmp_path)["model.safetensors"] != digests(trained[0])["model.safetensors"]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_named_encoder_brings_its_own_tokenizer(tmp_path: Path, frozen: bool) -> None:
    base = tiny_annotator_folder(tmp_path / "base", window=48)
    cfg = EncoderConfig(
        encoder=str(base), window=32, frozen=frozen, epochs=1, lr=1e-2, held_out=0.25, threads=1
    )
    report = train_annotator(*files(), tmp_path / "unused.json", cfg, tmp_path / "out")
    assert report["mlm_loss"] is None
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


def test_the_split_keeps_repositories_whole_and_both_classes_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        groups = [f"r{g}" for g in rng.zipf(1.5, size=200).clip(max=40)]
        labels = (rng.random(200) < 0.3).astype(int).tolist()
        held = split(labels, groups, EncoderConfig(seed=seed))
        sides = [set(np.array(groups)[held == side]) for side in (False, True)]
        assert not sides[0] & sides[1]
        for side in (held, ~held):
            assert set(np.array(labels)[side]) == {0, 1}


def test_the_split_takes_a_tenth_of_each_class_where_repositories_are_small() -> None:
    labels = [0] * 300 + [1] * 100
    groups = [f"r{k // 2}" for k in range(400)]
    held = split(labels, groups, EncoderConfig())
    assert np.bincount(np.array(labels)[held]).tolist() == [30, 10]
    # The order of the files does not matter, only their repositories.
    turned = split(labels[::-1], groups[::-1], EncoderConfig())
    assert turned[::-1].tolist() == held.tolist()


@pytest.mark.parametrize(
    ("labels", "groups", "says"),
    [
        ([0, 0, 0, 1, 1], list("abcdd"), r"good files \(label 1\).*there are 2 in 1 repositories"),
        ([1, 1, 1], list("abc"), r"corpus files \(label 0\).*there are 0 in 0"),
        ([0, 1, 0, 1], list("aaaa"), "corpus files"),
    ],
)
def test_what_cannot_be_split_is_named(labels: list[int], groups: list[str], says: str) -> None:
    with pytest.raises(StageError, match=says):
        split(labels, groups, EncoderConfig())


def test_labels_other_than_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match="labels of"):
        split([0, 1, 2], list("abc"), EncoderConfig())


def test_auc_counts_pairs_and_halves_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = np.array([0, 1, *rng.integers(0, 2, size=30)])
        scores = rng.integers(0, 8, size=32) / 8
        good, rest = scores[labels == 1], scores[labels == 0]
        pairs = np.sign(good[:, None] - rest[None, :]) / 2 + 0.5
        area, (low, high) = auc(scores, labels)
        assert area == pytest.approx(pairs.mean())
        by_good, by_rest = pairs.mean(1), pairs.mean(0)
        if min(len(good), len(rest)) > 1 and 0 < area < 1:
            half = 1.96 * np.sqrt(by_good.var(ddof=1) / len(good) + by_rest.var(ddof=1) / len(rest))
            assert (low, high) == pytest.approx((max(0, area - half), min(1, area + half)))


def test_a_perfect_auc_still_has_an_interval() -> None:
    area, (low, high) = auc(np.array([0.1, 0.2, 0.3, 0.8, 0.9]), np.array([0, 0, 0, 1, 1]))
    assert (area, low, high) == (1, 0, 1)
    area, (low, high) = auc(np.arange(60.0), np.arange(60) // 30)
    assert (area, round(low, 3), high) == (1, 0.9, 1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"encoder": "some/name", "hidden": 96}, "hidden: only for the small encoder"),
        ({"hidden": 65}, "65 is no multiple of heads 2"),
        ({"held_out": "100%"}, "held_out is 1.0"),
        ({"window": 1}, "window is 1"),
        ({"hiden": 64}, "did you mean 'hidden'"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(EncoderConfig, settings, "annotator")
