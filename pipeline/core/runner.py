"""Runs a recipe: each step is made once, under a key of what it depends on, or found made.

The key of a step is a hash of (box, VERSION, settings, input keys, source fingerprint); where and
how it runs is no part of it. `plan` says which steps run and which key changed, before any work.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version as version_of
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.core.config import canonical, plain
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job, base_shard, stack, total
from pipeline.core.recipe import Recipe, Step, annotation, edges
from pipeline.core.schema import digest
from pipeline.core.store import Store, sha256_file

log = logging.getLogger(__name__)
LIBRARIES = ("pyarrow", "numpy", "torch", "transformers", "tokenizers", "ray")


@dataclass(frozen=True)
class Runtime:
    """How this process runs steps: workers (None: one per core), Ray, and training's launcher."""

    workers: int
    connect: Callable[[], None]
    launch: Callable[..., Any]


@dataclass(frozen=True)
class Artifact:
    """What a step made: its manifest, and a local folder for what is not documents."""

    store: Store
    stage: str
    key: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        found = self.store.load(self.stage, self.key, "manifest.json")
        if found is None:
            raise StageError(
                f"{self.stage}/{self.key} is not in {self.store.uri}; run the recipe again"
            )
        return dict(found)

    @property
    def digest(self) -> str:
        """Hash of the content: equal where every byte is equal."""
        return str(self.manifest["digest"])

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self.manifest["facts"])

    @property
    def folder(self) -> Path:
        return self.store.local(self.stage, self.key)

    @cached_property
    def files(self) -> Files:
        """The documents of this step: its own base, or its parent's with its layers on top."""
        manifest = self.manifest
        if manifest["base"] is not None:
            shards = [base_shard(manifest["step"], r) for r in manifest["base"] if r["rows"]]
            files = Files(self.store, manifest["step"], tuple(shards))
        elif manifest["parent"] is None:
            raise StageError(f"step {manifest['step']} ({self.stage}) makes no documents")
        else:
            parent = Artifact(self.store, manifest["parent"]["stage"], manifest["parent"]["key"])
            files = parent.files
        return stack(files, manifest["step"], manifest["layers"])


@dataclass(frozen=True)
class Planned:
    """One line of the plan: `why` is empty for a step that is already made."""

    step: Step
    key: str
    identity: dict[str, Any]
    why: str

    @property
    def made(self) -> bool:
        return not self.why


def plan(recipe: Recipe, store: Store, until: str | None = None) -> list[Planned]:
    """What a run would do, top to bottom. Raises RecipeError where a `pin` does not hold."""
    keys: dict[str, str] = {}
    out = []
    for step in _steps(recipe, until):
        identity = _identity(step, keys)
        key = hashlib.sha256(canonical(identity).encode()).hexdigest()[:12]
        keys[step.name] = key
        if step.pin and step.pin != key:
            raise RecipeError(
                f"step {step.name}: its key is {key}, pinned to {step.pin}; "
                + (_why(recipe, store, step, identity) or "remove `pin`")
            )
        made = store.exists(step.stage, key, "manifest.json")
        out.append(
            Planned(step, key, identity, "" if made else _why(recipe, store, step, identity))
        )
    return out


def _steps(recipe: Recipe, until: str | None) -> Iterator[Step]:
    last = recipe.step(until) if until else recipe.steps[-1]
    for step in recipe.steps:
        yield step
        if step is last:
            return


def _identity(step: Step, keys: dict[str, str]) -> dict[str, Any]:
    fingerprint = getattr(step.box, "fingerprint", None)
    return {
        "stage": step.stage,
        "version": step.box.VERSION,
        "settings": plain(step.cfg),
        "inputs": {k: _keyed(v, keys) for k, v in step.inputs.items()},
        "sources": fingerprint(step.cfg) if fingerprint else None,
    }


def _keyed(value: Any, keys: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: keys[v] for k, v in value.items()}
    return [keys[v] for v in value] if isinstance(value, list) else keys[value]


def _why(recipe: Recipe, store: Store, step: Step, identity: dict[str, Any]) -> str:
    """Which parts of the key differ from the last artifact of this step, readably."""
    pointer = store.load("runs", recipe.name, f"{step.name}.json")
    old = pointer and store.load(pointer["stage"], pointer["key"], "manifest.json")
    if not old:
        return "new"
    before, now = _flat(old["identity"]), _flat(identity)
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    return (
        ", ".join(f"{k} {before.get(k)} -> {now.get(k)}" for k in changed) or "its artifact is gone"
    )


def _flat(identity: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in identity.items():
        name = f"{prefix}{key}"
        deeper = "" if name in ("settings", "inputs") else f"{name}."
        out |= _flat(value, deeper) if isinstance(value, dict) else {name: value}
    return out


def run(
    recipe: Recipe, store: Store, planned: list[Planned], runtime: Runtime
) -> Iterator[tuple[Planned, dict[str, Any], bool]]:
    """Make what the plan lacks; yields (planned, manifest, whether it was made now) per step.

    The caller holds the store's lock.
    """
    keys: dict[str, str] = {}
    stages = {item.step.name: item.step.stage for item in planned}
    for item in planned:
        keys[item.step.name] = item.key
        artifact = Artifact(store, item.step.stage, item.key)
        made_now = not store.exists(item.step.stage, item.key, "manifest.json")
        if made_now:
            _make(item, store, keys, runtime, stages)
        _point(recipe, store, item)
        yield item, artifact.manifest, made_now


def _point(recipe: Recipe, store: Store, item: Planned) -> None:
    pointer = {"stage": item.step.stage, "key": item.key}
    if store.load("runs", recipe.name, f"{item.step.name}.json") != pointer:
        store.replace(json.dumps(pointer).encode(), "runs", recipe.name, f"{item.step.name}.json")


def _make(
    item: Planned, store: Store, keys: dict[str, str], runtime: Runtime, stages: dict[str, str]
) -> None:
    step = item.step
    artifacts = {
        n: Artifact(store, stages[n], keys[n]) for v in step.inputs.values() for n in edges(v)
    }
    given = {k: _opened(step.box, k, v, artifacts) for k, v in step.inputs.items()}
    digests = {n: artifacts[n].digest for n in artifacts if not _is_files(step, n)}
    workers = runtime.workers if step.policy.workers is None else step.policy.workers
    identity = {"settings": item.identity["settings"], "inputs": digests}
    job = Job(
        store,
        step.name,
        step.stage,
        step.box.VERSION,
        item.key,
        identity,
        workers,
        step.policy.processes,
        runtime.connect,
        runtime.launch,
    )
    began = time.monotonic()
    step.box.run(**given, cfg=step.cfg, job=job)
    manifest = _manifest(item, job, artifacts, time.monotonic() - began)
    _check_quarantine(step, manifest, store, job)
    store.upload(step.stage, item.key)
    store.create(json.dumps(manifest).encode(), step.stage, item.key, "manifest.json")


def _is_files(step: Step, name: str) -> bool:
    """Whether a step's input of that name is read as documents (its shards carry the identity)."""
    keys = [k for k, v in step.inputs.items() if name in edges(v)]
    return all("Files" in str(annotation(step.box, k)) for k in keys)


def _opened(module: ModuleType, key: str, value: Any, artifacts: dict[str, Artifact]) -> Any:
    if isinstance(value, dict):
        return {k: _opened(module, key, v, artifacts) for k, v in value.items()}
    if isinstance(value, list):
        return [_opened(module, key, v, artifacts) for v in value]
    return artifacts[value].files if "Files" in str(annotation(module, key)) else artifacts[value]


def _manifest(
    item: Planned, job: Job, artifacts: dict[str, Artifact], seconds: float
) -> dict[str, Any]:
    parent = _parent(item.step, job, artifacts)
    built = _built(job) if job.base is None and not job.layers else {}
    records = [r for layer in job.layers for r in layer["shards"]] + (job.base or [])
    hashes = sorted(
        r["sha256"] + r.get("sidecar_sha256", "") + r.get("ledger_sha256", "") for r in records
    )
    hashes += [f"{name} {f['sha256']}" for name, f in built.items() if not _is_log(name)]
    size = sum(r["bytes"] for r in records) + sum(f["bytes"] for f in built.values())
    return {
        "step": item.step.name,
        "stage": item.step.stage,
        "key": item.key,
        "identity": item.identity,
        "parent": parent,
        "base": job.base,
        "layers": job.layers,
        "files": built,
        "rows": _rows(job),
        "facts": plain(job.facts),
        "digest": digest(*hashes),
        "bytes": size,
        "seconds": round(seconds, 2),
        "budget": item.step.policy.seconds,
        "kept_shards": job.kept_shards,
        "source": _source_hash(item.step.box),
        "versions": {name: version_of(name) for name in LIBRARIES},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _is_log(name: str) -> bool:
    """Files with times in them: hashed in the manifest, but no part of the content's digest."""
    return name.endswith((".jsonl", ".html")) or name.startswith(("checkpoints/", "logs/"))


def _parent(step: Step, job: Job, artifacts: dict[str, Artifact]) -> dict[str, str] | None:
    """The artifact whose documents this step's layers lie on: the input named `files`."""
    if job.base is not None or not job.layers:
        return None
    parent = artifacts[step.inputs["files"]]
    return {"stage": parent.stage, "key": parent.key}


def _rows(job: Job) -> dict[str, Any] | None:
    """The step's ledger: rows into its first layer, kept by its last, drops and failures of all."""
    if job.base is not None:
        return total(r["counts"] for r in job.base)
    if not job.layers:
        return None
    sums = [total(r["counts"] for r in layer["shards"]) for layer in job.layers]
    merged = total(sums)
    return merged | {"in": sums[0]["in"], "kept": sums[-1]["kept"]}


def _built(job: Job) -> dict[str, Any]:
    paths = sorted(p for p in job.folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {
        str(p.relative_to(job.folder)): {"bytes": p.stat().st_size, "sha256": sha256_file(p)}
        for p in paths
    }


def _source_hash(module: ModuleType) -> str:
    return sha256_file(Path(str(module.__file__)))


def _check_quarantine(step: Step, manifest: dict[str, Any], store: Store, job: Job) -> None:
    rows = manifest["rows"]
    if not rows or rows["quarantined"] <= step.policy.max_quarantine * rows["in"]:
        return
    raise StageError(
        f"step {step.name}: {rows['quarantined']} of {rows['in']} rows failed, above max_quarantine "
        f"{step.policy.max_quarantine:.1%}; first: {_first_failure(store, job)}. Mend the input, or "
        f"allow more: {step.name}.on.max_quarantine=..."
    )


def _first_failure(store: Store, job: Job) -> str:
    from pipeline.core.schema import QUARANTINE
    from pipeline.core.store import read_parquet

    records = job.base or [r for layer in job.layers for r in layer["shards"]]
    for record in records:
        if record["counts"]["quarantined"]:
            table = read_parquet(store.local(record.get("ledger", record["file"])))
            for row in table.to_pylist():
                if row["rule"] == QUARANTINE:
                    return f"{row.get('path') or row.get('uid')}: {row['evidence']}"
    return "unknown"
