"""The settings of a training phase and of the annotator.

Imports no torch, so that recipes are checked without it.
"""

from dataclasses import field
from typing import Literal

from pipeline.core.config import Bytes, Share, Tokens, config
from pipeline.model.schedules import Schedule

_SMALL = ("hidden", "layers", "heads")
"""Settings of the small encoder alone."""
_COUNTS = (
    *("batch", "micro", "checkpoint_every", "checkpoint_tokens", "keep"),
    *("log_every", "heldout_every", "heldout_bytes", "threads"),
)
"""Settings of a phase that are 1 or more."""


@config
class FitConfig:
    batch: int = 512
    """Sequences in an optimizer step, over all processes (SnowCoder 2409.02326 §2.1)."""
    micro: Tokens = 16384
    """Most tokens in one forward pass of one process, at least one sequence; the gradients of a
    larger batch are summed up (ours: two sequences of 8192)."""
    sharding: Literal["none", "grad", "full"] = "full"
    """What several processes split among them: nothing (DDP); gradients and moments (ZeRO-2); weights
    too, each layer gathered for its forward and backward pass (FSDP2, ZeRO-3 1910.02054). Ours: full,
    which trains a 7B model where 16 bytes a parameter do not fit; none is faster where they do."""
    schedule: Schedule = Schedule()
    """Learning rate by step."""
    optimizer: Literal["reset", "carry"] = "reset"
    """Start with fresh Adam moments, or with those of the phase before (ours; SnowCoder warms up
    again, so reset)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay rates of both moments (Llama 2; SnowCoder does not say)."""
    eps: float = 1e-8
    """Adam's epsilon (PyTorch)."""
    weight_decay: float = 0.1
    """Decoupled decay of all matrices; norms and biases have none (Llama 2)."""
    clip: float = 1.0
    """Largest norm of the whole gradient (Llama 2)."""
    mask_documents: bool = False
    """Attend inside documents alone, count positions in each, and predict nothing across a border
    (ours: off; phase 1 of SnowCoder wants a repository's files to see each other)."""
    skip: float | None = None
    """Leave out a step whose loss or gradient norm lies more than this many standard deviations above
    its mean over the `skip_window` steps before (OLMo-core's SkipStep: 6); none takes every step,
    as the papers do."""
    skip_window: int = 128
    """Steps that a spike is told by; none is left out before half of them are there (OLMo-core)."""
    spm_rate: Share = 0.5
    """Share of infilled pieces that are suffix first (Bavarian 2207.14255: half)."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; there is always one after the last step (Pythia: 1000)."""
    checkpoint_tokens: Tokens | None = None
    """Tokens between checkpoints, in place of steps (Crystal counts in tokens; none counts steps)."""
    keep: int | Literal["all"] = 2
    """Checkpoints kept: the newest, and one to fall back on when it is damaged (ours); `all` for
    those who study training (Crystal 2411.04156 publishes every one)."""
    log_every: int = 10
    """Steps between writes to metrics.jsonl, which has a line for each (ours: reading a loss makes
    a GPU wait)."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile each layer; auto does on a GPU, and on a CPU where a phase is long enough to win the
    time back (ours). It rounds differently, so it is part of the identity."""
    recompute: bool = False
    """Keep a layer's input alone and compute the rest again for the backward pass: far less memory,
    a third more time (ours: off, 1.3B parameters at 8192 fit a GPU of 80 GB without)."""
    log_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = field(
        default=(), metadata={"identity": False}
    )
    """Where the lines of metrics.jsonl go beside that file, each by its own library (ours: nowhere)."""
    heldout_every: int = 1000
    """Steps between measurements on the held-out documents, which are also taken after the last step
    (ours, as often as checkpoints)."""
    heldout_bytes: Bytes = 200_000
    """Held-out text measured of each language: whole documents until so many bytes (ours)."""
    threads: int = 2
    """CPU threads; another count rounds differently, so it is part of the identity (ours)."""
    seed: int = 0
    """Of new weights, infilling and dropout."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if (given := getattr(self, name)) not in (None, "all") and given < 1:
                raise ValueError(f"{name} is {given}: 1 or more")
        if self.skip is not None and not (self.skip > 0 and self.skip_window >= 4):
            raise ValueError(
                f"skip is {self.skip} (above 0), skip_window {self.skip_window} (4 or more)"
            )
        if len(set(self.log_to)) < len(self.log_to):
            raise ValueError(f"log_to is {list(self.log_to)}: one is named twice")
        if self.clip <= 0 or not 0 <= self.spm_rate <= 1:
            raise ValueError(f"clip is {self.clip} (above 0), spm_rate {self.spm_rate} (0 to 1)")


@config
class EncoderConfig:
    encoder: str | None = None
    """A Hugging Face name or folder (SnowCoder: Snowflake/snowflake-arctic-embed-m); none trains a
    small BERT with the pipeline's own tokenizer."""
    window: int = 128
    """Tokens a window, with the added ones; 512 for arctic-embed-m (ours: short ones are fast)."""
    hidden: int = 64
    """Width of the small encoder (ours: on 1,200 files 96 and 128 gained nothing but time)."""
    layers: int = 2
    """Layers of the small encoder (BERT-tiny 1908.08962)."""
    heads: int = 2
    """Attention heads of the small encoder (BERT-tiny 1908.08962)."""
    epochs: int = 2
    """Passes over the windows of the training files (FineWeb-Edu: 20, with a frozen encoder)."""
    batch: int = 16
    """Windows a step (FineWeb-Edu: 256; ours, for some thousand windows)."""
    lr: float = 3e-4
    """Peak learning rate of the classifier training; linear to 0 (FineWeb-Edu)."""
    frozen: bool = False
    """Train the head alone, on a frozen encoder (FineWeb-Edu does; SnowCoder does not say)."""
    held_out: Share = 0.1
    """Share of each class's files kept to measure, by whole repositories (FineWeb-Edu: 10 %)."""
    seed: int = 42
    """Of the split, the new weights and order (FineWeb-Edu's split: 42)."""
    threads: int = 2
    """CPU threads; another count rounds differently, so it is part of the identity (ours)."""

    def __post_init__(self) -> None:
        fields = type(self).__dataclass_fields__
        own = [n for n in _SMALL if getattr(self, n) != fields[n].default]
        if self.encoder is not None and own:
            raise ValueError(f"{', '.join(own)}: only for the small encoder, not {self.encoder}")
        if self.window < 8:
            raise ValueError(f"window is {self.window}: at least 8 tokens")
        for name in ("hidden", "layers", "heads", "epochs", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: 1 or more")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if not 0 < self.lr < 1:
            raise ValueError(f"lr is {self.lr}: above 0 and below 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: above 0 and below 1")


@config
class ForestConfig:
    encoder: str | None = None
    """A Hugging Face name or folder, encoder or causal language model (phi-1: a pretrained CodeGen,
    Salesforce/codegen-350M-mono the one it names); none with a step's model as the input `model`."""
    pool: Literal["mean", "first", "last"] = "mean"
    """The vector of a window: the mean over its tokens, or its first ([CLS]) or last one (ours: phi-1
    does not say, and a causal model's first token has seen nothing)."""
    window: int | None = None
    """Tokens a window; without a number the model's context, at most 512 (ours, as the annotator)."""
    target: Literal["class", "label"] = "class"
    """What is learnt: whether a label is `good` or better, giving a probability; or the label itself,
    giving a number on its scale (ours: phi-1 does not say)."""
    good: float = 3.0
    """The lowest label of a file worth keeping (FineWeb-Edu: 3 of 5)."""
    trees: int = 100
    """Trees (scikit-learn; phi-1 does not say)."""
    depth: int | None = None
    """Most questions from root to leaf; none lets trees grow out (scikit-learn)."""
    leaf: int = 5
    """Fewest training files in a leaf (ours: labels of a model are noisy, and growing out costs disk)."""
    held_out: Share = 0.2
    """Share of each class's files kept to measure, by whole repositories (ours)."""
    min_auc: Share = 0.0
    """Stop when the held-out ROC-AUC is below this (ours; 0 only reports it)."""
    seed: int = 0
    """Of the split and the trees."""
    threads: int = 2
    """CPU threads; another count rounds differently, so it is part of the identity (ours)."""

    def __post_init__(self) -> None:
        for name in ("trees", "leaf", "threads", "depth"):
            if (getattr(self, name) or 1) < 1 or getattr(self, name) == 0:
                raise ValueError(f"{name} is {getattr(self, name)}: 1 or more")
        if self.window is not None and self.window < 8:
            raise ValueError(f"window is {self.window}: at least 8 tokens")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: above 0 and below 1")
