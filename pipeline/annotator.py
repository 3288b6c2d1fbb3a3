"""Learns the quality annotator: files worth reading twice against a random sample of the corpus.

SnowCoder 2409.02326 §2.2: positives are good code from elsewhere (`positives`, `positives_from`),
negatives random documents, balanced; an encoder with a linear head. Where no such collection can be
reached, `rule` takes the corpus's own well-documented, typed or tested files (ours). Before anything
is scored it must tell good code that no training saw (`proof`) from unseen documents, or the run stops.
"""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

from pipeline.core import examples
from pipeline.core.config import Share, config
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.runner import Artifact
from pipeline.core.schema import digest
from pipeline.core.walking import marks
from pipeline.model.classes import ClassesConfig, classes, proof_path
from pipeline.model.evidence import Chosen

log = logging.getLogger(__name__)
VERSION = 4


@config
class Config(ClassesConfig):
    min_auc: Share = 0.0
    """Stop when the ROC-AUC on `proof`, without one on held-out positives, is below this (ours; 0 only
    reports it)."""


def check(cfg: Config, inputs: dict[str, Any], at: str) -> None:
    """RecipeError, before anything runs, where there is nothing to learn from."""
    if not cfg.positives and cfg.rule is None and "positives_from" not in inputs:
        raise RecipeError(
            f"{at}: a class without files: name `positives` (paths), `positives_from` (a step "
            "above) or a `rule` (0..1)"
        )


def fingerprint(cfg: Config) -> str:
    paths = [*cfg.positives, *map(proof_path, cfg.proof)]
    found = sorted(r.fingerprint for p in paths for r in examples.repositories(p))
    return digest(*found, *_encoder_files(cfg))


def _encoder_files(cfg: Config) -> list[str]:
    """What a folder's encoder is known by. RecipeError where it has no tokenizer or short windows."""
    folder = Path(cfg.encoder or "")
    if cfg.encoder is None or not folder.is_dir():
        return []
    there = marks(folder)
    if "config.json" not in there:
        raise RecipeError(f"annotator: encoder {folder} has no config.json: no Hugging Face folder")
    if not {"tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json"} & there.keys():
        raise RecipeError(
            f"annotator: encoder {folder} has no tokenizer (tokenizer.json or a vocabulary); "
            "copy the one it was trained with into the folder"
        )
    limit = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    if limit and cfg.window > limit:
        raise RecipeError(f"annotator: window is {cfg.window}; {folder} has {limit} positions")
    return list(there.values())


def run(
    negatives: Files,
    tokenizer: Annotated[Artifact, "tokenizer"],
    cfg: Config,
    job: Job,
    positives_from: Files | None = None,
) -> None:
    from pipeline.model.encoder import train_annotator
    from pipeline.model.evidence import evidence
    from pipeline.model.machine import accelerator

    chosen = classes(negatives, positives_from, cfg, job)
    texts = [d.text for d in chosen.good + chosen.corpus]
    labels = [1] * len(chosen.good) + [0] * len(chosen.corpus)
    vocabulary = tokenizer.folder / "tokenizer.json"
    job.facts |= train_annotator(texts, labels, vocabulary, cfg, job.folder, device=accelerator())
    job.facts |= {"train": {"good": len(chosen.good), "corpus": len(chosen.corpus)}}
    job.facts |= evidence(chosen, scored(chosen, cfg, job))
    written(job)
    gate(cfg, job)


def scored(chosen: Chosen, cfg: Config, job: Job) -> dict[str, float]:
    """The score of every file that no training saw, by the annotator as it was written."""
    from pipeline.model.machine import accelerator
    from pipeline.model.scorer import Scorer

    lists = (chosen.held_good, chosen.held_corpus, chosen.unseen, chosen.proof)
    docs = {d.uid: d.text for side in lists for d in side}
    judge = Scorer(job.folder, threads=cfg.threads, device=accelerator())
    found = judge.score(list(docs.values()))
    return {uid: float(f.score) for uid, f in zip(docs, found, strict=True)}


def written(job: Job) -> None:
    """Add the evidence to the annotator's card; texts stay in the facts."""
    from pipeline.model.evidence import said

    path = job.folder / "annotator.json"
    told = {k: job.facts[k] for k in ("gate", "auc", "auc_interval", "train", "measured")}
    brief = {
        end: [{k: v for k, v in row.items() if k != "text"} for row in rows]
        for end, rows in job.facts["samples"].items()
    }
    card = json.loads(path.read_text()) | told | {"samples": brief}
    path.write_text(json.dumps(card, indent=2))
    log.info("annotator  AUC %s", said(job.facts["measured"][job.facts["gate"]]))


def gate(cfg: Config, job: Job) -> None:
    """StageError with the evidence where the annotator is below `min_auc`."""
    from pipeline.model.evidence import shortfall

    if short := shortfall(job.facts, cfg.min_auc):
        raise StageError(
            f"step {job.step}: {short}. All of it is in {job.folder / 'annotator.json'}. Give more or "
            "other positives or another encoder, or lower min_auc to go on all the same"
        )
