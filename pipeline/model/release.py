"""Any checkpoint of a phase as a Hugging Face folder, by the code that publishes the last one.

muP's factors are in the stored weights already (`architectures`), so nothing is converted.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from pipeline.core.errors import StageError
from pipeline.model import checkpoint


def release(folder: Path, row: Mapping[str, Any], to: Path) -> None:
    """Write `to` with the weights of one checkpoint of the finished phase in `folder`.

    row: its row in the table (`kept.table`). StageError where the weights are not those of the
    phase's model.
    """
    card = json.loads((folder / "model" / "icefloe.json").read_text())
    model = _model(folder / "model")
    given = checkpoint.weights(folder / row["path"])
    if other := _others(model, given):
        raise StageError(f"{folder / row['path']} is another architecture's: {other[0]}")
    model.load_state_dict(given, strict=False)
    told = card | {"step": row["step"], "tokens": row["tokens"]}
    checkpoint.publish(model, to, folder / "model" / "tokenizer.json", told)


def _others(model: nn.Module, given: Mapping[str, torch.Tensor]) -> list[str]:
    """What only one of them has, or in another shape; a tied weight counts by any of its names."""
    own = model.state_dict(keep_vars=True)
    put = {id(own[name]) for name in given if name in own}
    missing = [name for name, weight in own.items() if id(weight) not in put]
    wrong = [n for n, w in given.items() if n not in own or own[n].shape != w.shape]
    return missing + wrong


def _model(folder: Path) -> Any:
    """A model of the published one's configuration; its weights are yet to be put in."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()
