"""The training loops that ours is held against: HF Trainer as it is, and a bare eager PyTorch loop."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.model.batches import Batches


@dataclass(frozen=True)
class Setting:
    """What is trained. rows: sequences in a forward pass, ours and the rivals' (theirs keep all
    logits); the batch of a step is the same for all."""

    model: str
    vocabulary: int
    length: int
    batch: int
    rows: int
    rival_rows: int
    warm: int
    steps: int
    rounds: int
    device: str
    precision: str
    compile: str


def hf_trainer(model: Any, fed: Batches, setting: Setting, folder: Path) -> tuple[float, float]:
    """transformers.Trainer with nothing but the setting said to it."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clock = _Clock(setting)

    class Timed(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    told = TrainingArguments(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=setting.rival_rows,
        gradient_accumulation_steps=setting.batch // setting.rival_rows,
        max_steps=setting.warm + setting.steps,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        bf16=setting.precision == "bfloat16",
        use_cpu=setting.device == "cpu",
        save_strategy="no",
        logging_steps=setting.warm + setting.steps,
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    rows = [row for n in range(fed.steps) for row in fed.batch(n).ids]
    data = [{"input_ids": row, "labels": row} for row in rows]
    trainer = Trainer(model, told, train_dataset=data, callbacks=[Timed()])
    loss = trainer.train().training_loss
    return clock.rate(), loss


def bare(model: Any, fed: Batches, setting: Setting, folder: Path) -> tuple[float, float]:
    """What a tutorial has: the model's own loss, AdamW, clipping; eager."""
    model.to(setting.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    clock, parts = _Clock(setting), setting.batch // setting.rival_rows
    low = setting.precision == "bfloat16"
    for number in range(fed.steps):
        ids = torch.from_numpy(fed.batch(number).ids)
        for part in ids.split(setting.rival_rows):
            x = part.to(setting.device)
            with torch.autocast(setting.device, torch.bfloat16, enabled=low):
                loss = model(input_ids=x, labels=x).loss / parts
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.rate(), loss.item() * parts


class _Clock:
    """Tokens a second between the end of the warm-up and that of the last step."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.done = setting, 0
        self.times: list[float] = []

    def tick(self) -> None:
        self.done += 1
        if self.done in (self.setting.warm, self.setting.warm + self.setting.steps):
            if self.setting.device == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    def rate(self) -> float:
        began, ended = self.times
        return self.setting.steps * self.setting.batch * self.setting.length / (ended - began)
