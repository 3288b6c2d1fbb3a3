"""What is wrong with a model's name, or a transformers folder to start from, told before anything is loaded.

Reads config.json and the headers of the safetensors files alone. Imports no torch.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.core.errors import RecipeError, did_you_mean

NAMES = (
    *("snowcoder-1.3b", "snowcoder-tiny", "codegen25-7b", "codegen25-tiny", "codeshell-7b"),
    *("codeshell-tiny", "phi1-1.3b", "phi1-350m", "phi1-tiny", "crystal-7b", "crystal-tiny"),
)
"""Those of `architectures.ARCHITECTURES`, which cannot be read without torch."""

PLACES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""What transformers' configurations call the longest context."""


def known(model: str) -> None:
    """RecipeError unless `model` is an architecture's name or a folder that is there."""
    if model not in NAMES and not Path(model).is_dir():
        near = did_you_mean(model, NAMES)
        raise RecipeError(f"model is {model!r}: no architecture or folder of that name{near}")


def check(folder: Path, vocabulary: int, context: int) -> None:
    """RecipeError unless the folder has room for that many ids and places, and weights that are
    whole. A folder with nothing but config.json is a model whose weights are still to be drawn.
    """
    config = _config(folder)
    ids = config.get("vocab_size")
    if ids is not None and ids < vocabulary:
        raise RecipeError(
            f"model {folder}: vocab_size is {ids}, but the tokenizer has {vocabulary} ids; take a "
            f"tokenizer of at most {ids}, or a model with {vocabulary} ids or more"
        )
    places = next((config[k] for k in PLACES if config.get(k)), None)
    if places is not None and places < context:
        raise RecipeError(
            f"model {folder}: its context is {places} tokens, but the data is packed to sequences "
            f"of {context}; lower the pack step's length to {places}"
        )
    for path in weights(folder):
        _check_whole(path)


def weights(folder: Path) -> list[Path]:
    """The folder's safetensors files; none for a configuration alone. RecipeError for weights that
    are missing, or pickled."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(_json(index)["weight_map"].values()))
        if gone := [n for n in names if not (folder / n).is_file()]:
            raise RecipeError(f"model {folder}: {gone[0]} is missing; copy the whole folder again")
        return [folder / n for n in names]
    found = sorted(folder.glob("*.safetensors"))
    pickled = sorted(p.name for k in ("*.bin", "*.pt", "*.pth") for p in folder.glob(k))
    if pickled and not found:
        raise RecipeError(
            f"model {folder}: {pickled[0]} is a pickle, which is not read; save the model as "
            "safetensors (save_pretrained of a present transformers does)"
        )
    return found


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise RecipeError(f"model {folder}: no config.json, so no folder of transformers")
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as e:
        raise RecipeError(f"{path} is damaged ({e}); copy the folder again") from None


def _check_whole(path: Path) -> None:
    """A safetensors file is as long as its header says."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(min(length, size)))
        ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise RecipeError(f"{path} is damaged (its header: {e}); copy it again") from None
    if size != wanted:
        raise RecipeError(f"{path} has {size:,} bytes of {wanted:,}: cut off; copy it again")
