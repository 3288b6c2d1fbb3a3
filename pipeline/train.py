"""One training phase: packed sequences [+ the phase it goes on from] -> a model.

The loop is `model.fit`; this box loads the start, publishes the end in Hugging Face layout, and
leaves checkpoints and one metrics line per step beside it. With more than one process the same fit
runs under Ray Train. Knows nothing of where the data came from.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pipeline.core.config import config
from pipeline.core.errors import RecipeError
from pipeline.core.job import Job
from pipeline.core.recipe import bounds
from pipeline.core.runner import Artifact
from pipeline.model.schedules import inherited
from pipeline.model.settings import FitConfig

VERSION = 2


@config
class Config(FitConfig):
    model: str = "snowcoder-1.3b"
    """An architecture by name, or a folder with a transformers causal language model; with `start`
    the phase before decides and this must not differ from it."""


def run(
    data: Annotated[Artifact, "pack"],
    tokenizer: Annotated[Artifact, "tokenizer"],
    cfg: Config,
    job: Job,
    start: Annotated[Artifact, "train"] | None = None,
) -> None:
    before = start.facts if start else None
    if before and before["model"] != cfg.model:
        raise RecipeError(
            f"step {job.step}: model is {cfg.model}, but it starts from a {before['model']}"
        )
    _divides(cfg.batch, job)
    last = before["lr_last"] if before else None
    cfg = replace(cfg, schedule=inherited(cfg.schedule, last))
    origin = str(start.folder / "model") if start else cfg.model
    sidecars = [str(job.store.local(name)) for name in data.facts["sidecars"]]
    told = partial(
        phase,
        cfg=cfg,
        origin=origin,
        before=start.folder if start else None,
        data=data.folder,
        sidecars=sidecars,
        facts=data.facts,
        tokenizer=tokenizer.folder / "tokenizer.json",
        vocabulary=tokenizer.facts["size"],
        folder=job.folder,
        name=job.step,
        digest=data.digest,
    )
    job.facts |= job.launch(told, job.processes)
    job.facts |= {"model": cfg.model, "epochs": data.facts["epochs"]}
    job.facts["tokens_seen"] = job.facts["tokens"] + (before["tokens_seen"] if before else 0)


def _divides(batch: int, job: Job) -> None:
    """RecipeError unless every number of processes that there may be takes equal parts of a batch."""
    least, most = bounds(job.processes)
    if uneven := [n for n in range(least, most + 1) if batch % n]:
        raise RecipeError(
            f"step {job.step}: batch is {batch}: not a multiple of {uneven[0]} processes, and "
            f"there may be {least} to {most}"
        )


def phase(
    world: Any,
    *,
    cfg: Config,
    origin: str,
    before: Path | None,
    data: Path,
    sidecars: list[str],
    facts: dict[str, Any],
    tokenizer: Path,
    vocabulary: int,
    folder: Path,
    name: str,
    digest: str,
) -> dict[str, Any]:
    """Train one phase in this process of `world`; its first process publishes. Returns the summary."""
    import pyarrow.parquet as pq

    from pipeline.model import architectures, batches, checkpoint, fit

    model = architectures.build(origin, vocabulary, facts["length"], cfg.seed)
    index = pq.read_table(data / "index.parquet")
    fed = batches.Batches(
        index, [Path(p) for p in sidecars], facts["length"], cfg.batch, cfg.seed, cfg.spm_rate
    )
    scales = architectures.scales(cfg.model, model)
    summary = fit.fit(model, fed, cfg, folder=folder, world=world, before=before, scales=scales)
    if world.rank == 0:
        card = {
            "model": cfg.model,
            "phase": name,
            "step": summary["steps"],
            "tokens": summary["tokens"],
            "data": digest,
            "infill": facts["infilled"] > 0,
        }
        last = checkpoint.newest(folder / "checkpoints") if world.size > 1 else None
        weights = checkpoint.weights(last) if last else None
        checkpoint.publish(model, folder / "model", tokenizer, card, weights)
    return dict(summary)
