"""One training phase: packed sequences [+ the phase it goes on from, held-out documents] -> a model.

The loop is `model.fit`; this box loads the start, publishes the end in Hugging Face layout, and
leaves checkpoints and one metrics line per step beside it. With more than one process the same fit
runs under Ray Train. Knows nothing of where the data came from.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.recipe import bounds, stages
from pipeline.core.runner import Artifact
from pipeline.core.schema import digest
from pipeline.core.store import sha256_file
from pipeline.core.walking import marks
from pipeline.model import folders, loggers
from pipeline.model.bits import within
from pipeline.model.schedules import inherited, rate
from pipeline.model.settings import FitConfig

VERSION = 3


@config
class Config(FitConfig):
    model: str = "snowcoder-1.3b"
    """An architecture by name, or a folder with a transformers causal language model; with `start`
    the phase before decides and this must not differ from it."""


def fingerprint(cfg: Config) -> str:
    """Of the files of a user's own model; a name stands for itself. RecipeError for one of neither."""
    folders.known(cfg.model)
    folder = Path(cfg.model)
    return digest(*marks(folder).values()) if folder.is_dir() else ""


def run(
    data: Annotated[Artifact, "pack"],
    tokenizer: Annotated[Artifact, "tokenizer"],
    cfg: Config,
    job: Job,
    start: Annotated[Artifact, "train"] | None = None,
    heldout: Files | None = None,
) -> None:
    before = start.facts if start else None
    origin = str(start.folder / "model") if start else cfg.model
    loggers.check(cfg)
    _check_start(cfg, start, tokenizer, f"step {job.step}")
    _check_tokens(data, tokenizer, f"step {job.step}")
    if Path(origin).is_dir():
        folders.check(Path(origin), tokenizer.facts["size"], data.facts["length"])
    if data.facts["masks"] > tokenizer.facts["masks"]:
        raise RecipeError(
            f"step {job.step}: up to {data.facts['masks']} spans of its data's documents are masked, but "
            f"the tokenizer has masks {tokenizer.facts['masks']}; raise that, or lower pack's spans.masks"
        )
    _divides(cfg.batch, job)
    last = before["lr_last"] if before else None
    cfg = replace(cfg, schedule=inherited(cfg.schedule, last))
    _check_steps(cfg, data.facts["sequences"], f"step {job.step}")
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
        texts=texts(heldout, cfg, job) if heldout else {},
    )
    job.facts |= job.launch(told, job.processes)
    job.facts |= {"model": cfg.model, "epochs": data.facts["epochs"]}
    job.facts["tokens_seen"] = job.facts["tokens"] + (before["tokens_seen"] if before else 0)


def _check_steps(cfg: Config, sequences: int, at: str) -> None:
    """The data has a batch, and the schedule ends its warm-up within them all."""
    if sequences < cfg.batch:
        raise RecipeError(
            f"{at}: batch is {cfg.batch}, more sequences than were packed ({sequences}); lower it or "
            "pack more tokens"
        )
    rate(cfg.schedule, 0, sequences // cfg.batch)


def _check_start(cfg: Config, start: Artifact | None, tokenizer: Artifact, at: str) -> None:
    """The phase before has this model, and learnt this tokenizer's ids."""
    if start is None:
        return
    if start.facts["model"] != cfg.model:
        raise RecipeError(
            f"{at}: model is {cfg.model}, but it starts from a {start.facts['model']}"
        )
    ours, theirs = (a / "tokenizer.json" for a in (tokenizer.folder, start.folder / "model"))
    if sha256_file(ours) != sha256_file(theirs):
        raise RecipeError(
            f"{at}: the phase it starts from was trained with another tokenizer; give both the same"
        )


def _check_tokens(data: Artifact, tokenizer: Artifact, at: str) -> None:
    """The data's tokens are this tokenizer's: RecipeError where a step that made them used another."""
    for artifact in _tokenized(data):
        key = artifact.manifest["identity"]["inputs"]["tokenizer"]
        used = Artifact(data.store, "tokenizer", key)
        if used.digest != tokenizer.digest:
            raise RecipeError(
                f"{at}: the data was tokenized with another tokenizer, of {used.facts['size']} ids; "
                f"this one has {tokenizer.facts['size']}. Name the same step in `tokenizer` of both"
            )


def _tokenized(artifact: Artifact) -> Iterator[Artifact]:
    """The tokenize steps that an artifact's documents came through, found in the manifests."""
    if artifact.stage == "tokenize":
        yield artifact
        return
    files = artifact.manifest["identity"]["inputs"].get("files", {})
    for key in files.values() if isinstance(files, dict) else [files]:
        there = (b for b in stages() if artifact.store.exists(b, str(key), "manifest.json"))
        if box := next(there, None):
            yield from _tokenized(Artifact(artifact.store, box, str(key)))


def texts(heldout: Files, cfg: Config, job: Job) -> dict[str, list[str]]:
    """Held-out texts of each language in the order of their hashes, within `heldout_bytes`.

    StageError when nothing was held out.
    """
    some = partial(few, budget=cfg.heldout_bytes, seed=cfg.seed)
    found = pa.concat_tables(job.collect(heldout, some, ["text", "language"], side="heldout"))
    if not len(found):
        raise StageError(
            f"step {job.step}: nothing was held out of `heldout`; raise the holdout step's share"
        )
    rows = few(found, cfg.heldout_bytes, cfg.seed).to_pylist()
    names = sorted({r["language"] for r in rows})
    return {name: [r["text"] for r in rows if r["language"] == name] for name in names}


def few(table: pa.Table, budget: int, seed: int) -> pa.Table:
    """Of each language the first documents in hash order, as many as fit the budget; long ones cut."""
    rows = table.select(["uid", "text", "language"]).to_pylist()
    rows.sort(key=lambda r: digest(str(seed), r["uid"]))
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        told = row | {"text": row["text"][:budget], "language": row["language"] or "other"}
        by_name.setdefault(told["language"], []).append(told)
    kept = [r for g in by_name.values() for r in g[: len(within([r["text"] for r in g], budget))]]
    types = {"uid": pa.string(), "text": pa.large_string(), "language": pa.string()}
    return pa.Table.from_pylist(kept, pa.schema(types.items()))


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
    texts: dict[str, list[str]],
) -> dict[str, Any]:
    """Train one phase in this process of `world`; its first process publishes. Returns the summary."""
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    from pipeline.model import architectures, batches, bits, checkpoint, fit

    model = architectures.build(origin, vocabulary, facts["length"], cfg.seed)
    index = pq.read_table(data / "index.parquet")
    files = [Path(p) for p in sidecars]
    fed = batches.Batches(
        index, files, facts["length"], cfg.batch, cfg.seed, cfg.spm_rate, cfg.mask_documents
    )
    scales = architectures.scales(cfg.model, model)
    held = bits.slices(texts, Tokenizer.from_file(str(tokenizer)), facts["length"])
    summary = fit.fit(
        model,
        fed,
        cfg,
        folder=folder,
        world=world,
        before=before,
        scales=scales,
        slices=held,
        name=name,
    )
    if world.rank == 0:
        card = {
            "model": cfg.model,
            "phase": name,
            "step": summary["steps"],
            "tokens": summary["tokens"],
            "data": digest,
            "infill": facts["infilled"] + facts["corrupted"] > 0,
            "spans": facts["corrupted"] > 0 and not facts["infilled"],
        }
        last = checkpoint.newest(folder / "checkpoints") if world.size > 1 else None
        weights = checkpoint.weights(last) if last else None
        checkpoint.publish(model, folder / "model", tokenizer, card, weights)
    return dict(summary)
