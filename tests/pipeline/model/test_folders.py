"""A user's own folder is taken as it is, or refused with what to do, before anything is computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

from pipeline.core.errors import RecipeError
from pipeline.model import folders
from pipeline.model.architectures import ARCHITECTURES, build
from tests.tiny import tiny_model_folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 320 ids and 128 places."""
    return tiny_model_folder(tmp_path_factory.mktemp("given") / "model")


@pytest.fixture
def mine(given: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(given, tmp_path / "model"))


def refused(folder: Path, match: str, vocabulary: int = 320, context: int = 64) -> None:
    with pytest.raises(RecipeError, match=match):
        build(str(folder), vocabulary, context, seed=0)


def test_a_vocabulary_may_be_larger_but_not_smaller_than_the_tokenizer(given: Path) -> None:
    assert build(str(given), 300, 64, seed=0).get_input_embeddings().num_embeddings == 320
    refused(given, r"vocab_size is 320, but the tokenizer has 321 ids; take a tokenizer", 321)


def test_a_context_may_be_longer_but_not_shorter_than_the_sequences(given: Path) -> None:
    refused(given, r"context is 128 tokens, but .* sequences of 129; lower .* to 128", 320, 129)


def test_a_configuration_alone_is_a_new_model_of_the_seed(mine: Path) -> None:
    (mine / "model.safetensors").unlink()
    one, same, other = (build(str(mine), 320, 64, seed) for seed in (0, 0, 1))
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_other_families_say_context_in_other_words(tmp_path: Path) -> None:
    GPT2Config(vocab_size=320, n_positions=32, n_embd=32, n_layer=1, n_head=1).save_pretrained(
        tmp_path
    )
    refused(tmp_path, r"context is 32 tokens")
    assert build(str(tmp_path), 320, 32, seed=0).config.n_positions == 32


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_to_its_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def nan(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, path, {"format": "pt"})


def other_architecture(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({"transformer.wte.weight": torch.zeros(320, 32)}, path, {"format": "pt"})


def other_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = torch.ones(33)
    save_file(tensors, path, {"format": "pt"})


def too_deep(folder: Path) -> None:
    """Its weights have a layer more than its configuration."""
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def shard_gone(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def torn_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"vocab_size": 3')


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (cut, r"model.safetensors has [\d,]+ bytes of [\d,]+: cut off; copy it again"),
        (cut_to_its_header, r"model.safetensors is damaged \(its header"),
        (empty, r"model.safetensors is damaged"),
        (nan, r"1 weights hold NaN or infinity, such as model.norm.weight"),
        (other_architecture, r"not of the architecture in its config.json: \d+ are missing"),
        (other_shape, r"config.json: 1 are of another shape, such as model.norm.weight"),
        (too_deep, r"config.json: 9 are too many, such as model.layers.1"),
        (pickled, r"pytorch_model.bin is a pickle, which is not read"),
        (shard_gone, r"model-00001-of-00002.safetensors is missing"),
        (no_config, r"no config.json"),
        (torn_config, r"config.json is damaged"),
    ],
)
def test_a_spoilt_folder_is_refused(mine: Path, spoil: Callable[[Path], None], match: str) -> None:
    spoil(mine)
    refused(mine, match)


def test_an_unknown_type_of_model_is_named(mine: Path) -> None:
    config = json.loads((mine / "config.json").read_text()) | {"model_type": "nosuch"}
    (mine / "config.json").write_text(json.dumps(config))
    refused(mine, r"cannot be loaded: .*nosuch")


def test_a_name_is_known_without_torch() -> None:
    assert set(folders.NAMES) == set(ARCHITECTURES)
    with pytest.raises(RecipeError, match=r"'snowcoder-tinny': .*did you mean 'snowcoder-tiny'"):
        folders.known("snowcoder-tinny")


def test_the_weights_of_a_whole_folder(given: Path) -> None:
    assert folders.weights(given) == [given / "model.safetensors"]
