"""Recounts a run from its files alone: plain pyarrow and hashlib, no code of the boxes.

For every step: each file's sha256; rows in = kept + dropped by reason + quarantined, counted again
from the verdict columns of its chain and held against the manifest; and that every layer's rows are
its base's rows, by uid.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.schema import digest, is_log
from pipeline.core.store import Store

Problems = list[str]


def problems(store: Store, run: str) -> tuple[Problems, dict[str, int]]:
    """(one line for each disagreement, naming step, shard and row; how much was checked)."""
    root = store.local()
    told = json.loads((root / "runs" / run / "run.json").read_text())
    found: Problems = []
    checked = {"steps": 0, "files": 0, "rows": 0}
    for step in told["steps"]:
        pointer = root / "runs" / run / f"{step}.json"
        if pointer.exists() and json.loads(pointer.read_text())["key"] == told.get("keys", {}).get(
            step
        ):
            found += [f"{step}: {line}" for line in _checked(root, pointer, checked)]
    return found, checked


def _checked(root: Path, pointer: Path, checked: dict[str, int]) -> Problems:
    try:
        return _step(root, _manifest(root, json.loads(pointer.read_text())), checked)
    except (OSError, ValueError, KeyError) as e:
        return [f"cannot be read: {e}"]


def _manifest(root: Path, pointer: dict[str, str]) -> dict[str, Any]:
    return dict(
        json.loads((root / pointer["stage"] / pointer["key"] / "manifest.json").read_text())
    )


def _step(root: Path, manifest: dict[str, Any], checked: dict[str, int]) -> Problems:
    found = [*_identity(manifest), *_unlisted(root, manifest), *_hashes(root, manifest, checked)]
    if found or not manifest["rows"]:
        return found or _content(manifest)
    checked["steps"] += 1
    counted, lines = _recount(root, manifest)
    checked["rows"] += counted["in"]
    told = manifest["rows"]
    if told["in"] != told["kept"] + sum(told["dropped"].values()) + told["quarantined"]:
        lines.append(f"the manifest's own numbers do not add up: {told}")
    if not lines and counted != told:
        lines.append(f"the manifest says {told}, its files say {counted}")
    return lines + _content(manifest)


def _identity(manifest: dict[str, Any]) -> Problems:
    text = json.dumps(manifest["identity"], sort_keys=True, separators=(",", ":"))
    same = hashlib.sha256(text.encode()).hexdigest()[:12] == manifest["key"]
    return [] if same else ["the manifest's settings and inputs are not those of its key"]


def _unlisted(root: Path, manifest: dict[str, Any]) -> Problems:
    """What lies in the artifact's own folder and is none of its files."""
    folder = root / manifest["stage"] / manifest["key"]
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return [
        f"{folder.relative_to(root)}/{name}: is not in the manifest"
        for name in sorted(there - set(manifest["files"]) - {"manifest.json"})
    ]


def _content(manifest: dict[str, Any]) -> Problems:
    """The digest over all content, formed again from the manifest's own hashes."""
    shards = [r for layer in manifest["layers"] for r in layer["shards"]] + (manifest["base"] or [])
    keys = ("sha256", "sidecar_sha256", "ledger_sha256")
    hashes = sorted("".join(r.get(key, "") for key in keys) for r in shards)
    files = [f"{name} {f['sha256']}" for name, f in manifest["files"].items() if not is_log(name)]
    same = digest(*hashes, *files) == manifest["digest"]
    return [] if same else ["the manifest's digest is not that of its files"]


def _hashes(root: Path, manifest: dict[str, Any], checked: dict[str, int]) -> Problems:
    folder = f"{manifest['stage']}/{manifest['key']}"
    wanted = {f"{folder}/{name}": f["sha256"] for name, f in manifest["files"].items()}
    records = (manifest["base"] or []) + [
        r for layer in manifest["layers"] for r in layer["shards"]
    ]
    for record in records:
        names = (("file", "sha256"), ("ledger", "ledger_sha256"), ("sidecar", "sidecar_sha256"))
        wanted |= {record[name]: record[sha] for name, sha in names if name in record}
    checked["files"] += len(wanted)
    return [
        f"{name}: {problem}" for name, sha in wanted.items() if (problem := _hash(root / name, sha))
    ]


def _hash(path: Path, wanted: str) -> str | None:
    if not path.exists():
        return "is missing"
    with open(path, "rb") as f:
        return (
            None
            if hashlib.file_digest(f, "sha256").hexdigest() == wanted
            else "its content has changed"
        )


def _recount(root: Path, manifest: dict[str, Any]) -> tuple[dict[str, Any], Problems]:
    if manifest["base"] is not None:
        return _recount_base(root, manifest["base"])
    below = _below(root, manifest["parent"])
    counts = {"in": 0, "kept": 0, "quarantined": 0}
    dropped: Counter[str] = Counter()
    lines: Problems = []
    for at, record in enumerate(manifest["layers"][0]["shards"]):
        own = [layer["shards"][at]["file"] for layer in manifest["layers"]]
        alive, uids = _alive(root, below[record["shard"]])
        counts["in"] += sum(alive)
        for name in own:
            alive, rules, line = _apply(root / name, alive, uids)
            lines += [f"shard {record['shard']}: {line}"] if line else []
            counts["quarantined"] += rules.pop("quarantine", 0)
            dropped.update(rules)
        counts["kept"] += sum(alive)
    return _ledger(counts, dropped), lines


def _recount_base(root: Path, base: list[dict[str, Any]]) -> tuple[dict[str, Any], Problems]:
    kept = sum(pq.ParquetFile(root / r["file"]).metadata.num_rows for r in base)
    rules = Counter(x for r in base for x in pq.read_table(root / r["ledger"])["rule"].to_pylist())
    bad = rules.pop("quarantine", 0)
    counts = {"in": kept + bad + sum(rules.values()), "kept": kept, "quarantined": bad}
    return _ledger(counts, rules), []


def _ledger(counts: dict[str, int], dropped: Counter[str]) -> dict[str, Any]:
    return {**counts, "dropped": dict(sorted(dropped.items()))}


def _below(root: Path, parent: dict[str, str]) -> dict[str, list[str]]:
    """shard -> the files of its chain up to and with `parent`, base first."""
    manifest = _manifest(root, parent)
    if manifest["base"] is not None:
        chain = {r["name"]: [r["file"]] for r in manifest["base"]}
    else:
        chain = _below(root, manifest["parent"])
    for layer in manifest["layers"]:
        for record in layer["shards"]:
            chain[record["shard"]] = [*chain[record["shard"]], record["file"]]
    return chain


def _alive(root: Path, chain: list[str]) -> tuple[list[bool], list[str]]:
    uids = pq.read_table(root / chain[0], columns=["uid"])["uid"].to_pylist()
    alive = [True] * len(uids)
    for name in chain[1:]:
        keep = pq.read_table(root / name, columns=["keep"])["keep"].to_pylist()
        alive = [a and bool(k) for a, k in zip(alive, keep, strict=True)]
    return alive, uids


def _apply(
    path: Path, alive: list[bool], uids: list[str]
) -> tuple[list[bool], Counter[str], str | None]:
    """One verdict file over the rows alive: the rows it keeps, its drops by rule, a disagreement."""
    table = pq.read_table(path, columns=["uid", "keep", "rule"])
    own, keep = table["uid"].to_pylist(), table["keep"].to_pylist()
    rules = table["rule"].cast(pa.string()).to_pylist()
    if own != uids:
        row = next(
            (i for i, (a, b) in enumerate(zip(own, uids, strict=False)) if a != b),
            min(len(own), len(uids)),
        )
        return alive, Counter(), f"row {row} of {path.name} is not the base's row {row}"
    for row, (a, k, rule) in enumerate(zip(alive, keep, rules, strict=True)):
        if a != (k is not None) or (k is False) != (rule is not None):
            return (
                alive,
                Counter(),
                f"row {row} of {path.name} (uid {uids[row]}): keep {k}, rule {rule}, "
                f"{'alive' if a else 'dropped'} before",
            )
    dropped = Counter(r for a, k, r in zip(alive, keep, rules, strict=True) if a and not k)
    return [a and bool(k) for a, k in zip(alive, keep, strict=True)], dropped, None
