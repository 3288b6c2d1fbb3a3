"""Learns phi-1's filter: a random forest on a language model's vectors of labelled files.

Labels are `label`'s, documents are found by uid; the model that reads them is named (`encoder`) or a
step's (`model`, phi-1 2306.11644 §2.1: a pretrained code model). Gives a judge that `annotate` loads,
with scores in `education`. Which share of the tokens is kept (phi-1: about 17 %) is for `select` to say.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.runner import Artifact
from pipeline.core.schema import digest
from pipeline.core.store import read_columns
from pipeline.core.walking import marks
from pipeline.model.settings import ForestConfig

VERSION = 2


@config
class Config(ForestConfig):
    pass


def fingerprint(cfg: Config) -> str:
    """Of the files of a local encoder; a name of the hub is taken at its word."""
    folder = Path(cfg.encoder or "")
    if cfg.encoder is None or not folder.is_dir():
        return ""
    return digest(*marks(folder).values())


def check(cfg: Config, inputs: dict[str, Any], at: str) -> None:
    """RecipeError, before anything runs, unless one model is named."""
    if ("model" in inputs) == (cfg.encoder is not None):
        raise RecipeError(
            f"{at}: name one of `encoder` (a Hugging Face name or folder) and `model` (a train step), "
            "whose vectors the forest is to judge"
        )


def run(
    files: Files,
    labels: Annotated[Artifact, "label"],
    cfg: Config,
    job: Job,
    model: Annotated[Artifact, "train"] | None = None,
) -> None:
    from pipeline.model.forest import train_forest

    source = str(cfg.encoder if model is None else model.folder / "model")
    table, told = labelled(files, labels, job)
    texts, values, repos, languages = (
        table[name].to_pylist() for name in ("text", "label", "repo", "language")
    )
    report = train_forest(texts, values, repos, languages, source, cfg, job.folder)
    job.facts |= report | told | {"gate": "held_out"}
    if report["auc"] < cfg.min_auc:
        raise StageError(
            f"step {job.step}: ROC-AUC {report['auc']:.3f} on held-out repositories is below min_auc "
            f"{cfg.min_auc}; label more files, take another encoder, or lower min_auc to go on all the same"
        )


def labelled(files: Files, labels: Artifact, job: Job) -> tuple[pa.Table, dict[str, int]]:
    """The labelled documents (uid, repo, language, text, label), by uid; how many labels there are,
    and how many of documents that are not among the files. StageError where none is."""
    given = read_columns(labels.folder / "labels.parquet", ["uid", "label"])
    of = dict(zip(given["uid"].to_pylist(), given["label"].to_pylist(), strict=True))
    found = job.collect(files, partial(only, uids=frozenset(of)), ["repo", "language", "text"])
    table = pa.concat_tables(found).sort_by("uid")
    if not len(table):
        raise StageError(
            f"step {job.step}: none of the {len(of)} labels is of a document in `files`; name the files "
            "that were labelled, or files made of them"
        )
    values = pa.array([of[u] for u in table["uid"].to_pylist()], pa.float64())
    names = pa.array([n or "" for n in table["language"].to_pylist()], pa.string())
    table = table.drop_columns(["language"]).append_column("language", names)
    return table.append_column("label", values), {
        "labels": len(of),
        "elsewhere": len(of) - len(table),
    }


def only(table: pa.Table, uids: frozenset[str]) -> pa.Table:
    """The rows of these documents."""
    return table.filter(pa.array([u in uids for u in table["uid"].to_pylist()], pa.bool_()))
