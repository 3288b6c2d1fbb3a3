"""A checkpoint of each architecture, exported, is plain transformers' and has the trainer's logits.

The bar is equal bits on one CPU thread after training (largest difference 0: the same weights, the
same code), and NEAR while it goes on, when products are oneDNN's (7.6e-6 seen, of logits up to 9).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.core.errors import StageError
from pipeline.model import architectures, checkpoint, kept
from pipeline.model.fit import fit
from pipeline.model.release import release
from tests.packed import CONFIG, LENGTH, VOCABULARY, batches
from tests.tiny import tiny_tokenizer

IDS = torch.arange(LENGTH)[None] * 7 % VOCABULARY
NEAR = 5e-5
TINY = [n for n in architectures.ARCHITECTURES if n.endswith("-tiny")]


pytestmark = pytest.mark.usefixtures("one_thread")


def trained(name: str, folder: Path) -> tuple[Any, torch.Tensor]:
    """A phase of 3 steps with a checkpoint after each, published; the trainer's logits after 2."""
    model = architectures.build(name, VOCABULARY, LENGTH, seed=3)
    at: list[torch.Tensor] = []

    def look(line: dict[str, Any]) -> None:
        if line["step"] == 1:
            model.eval()
            with torch.no_grad():
                at.append(model(input_ids=IDS).logits)
            model.train()

    cfg = replace(CONFIG, checkpoint_every=1, keep="all", log_every=1)
    fed = batches(folder / "data", 10)
    scales = architectures.scales(name, model)
    fit(model, fed, cfg, folder=folder, scales=scales, name="phase1", on_step=look)
    tiny_tokenizer(folder / "tokenizer.json", VOCABULARY)
    card = {"model": name, "phase": "phase1", "step": fed.steps, "tokens": 1, "infill": True}
    checkpoint.publish(model, folder / "model", folder / "tokenizer.json", card)
    return model, at[0]


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TINY)
def test_any_checkpoint_has_the_trainers_logits(name: str, tmp_path: Path) -> None:
    model, second = trained(name, tmp_path)
    rows = kept.table(tmp_path)
    release(tmp_path, rows[1], tmp_path / "second")
    assert (logits(tmp_path / "second") - second).abs().max() < NEAR
    release(tmp_path, rows[-1], tmp_path / "last")
    with torch.no_grad():
        last = model(input_ids=IDS).logits
    assert (logits(tmp_path / "last") - last).abs().max() == 0
    assert not torch.equal(second, last)


def test_the_last_one_is_what_was_published(tmp_path: Path) -> None:
    trained("snowcoder-tiny", tmp_path)
    row = kept.table(tmp_path)[-1]
    release(tmp_path, row, tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "model").iterdir())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    for name in set(names) - {"icefloe.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    card = json.loads((tmp_path / "out" / "icefloe.json").read_text())
    assert (card["step"], card["tokens"]) == (row["step"], row["tokens"])
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|endoftext|>"


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    trained("snowcoder-tiny", tmp_path)
    config = tmp_path / "model" / "config.json"
    told = json.loads(config.read_text()) | {"attention_bias": True}
    config.write_text(json.dumps(told))
    with pytest.raises(StageError, match=r"is another architecture's: .*bias"):
        release(tmp_path, kept.table(tmp_path)[-1], tmp_path / "out")
