"""Source repositories -> documents: one row a file, text written once.

Takes folders, archives, tables or this Python's own packages; gives documents in shards (one a
repository, or one a table file). Knows nothing of quality: only what is no readable source text is
left out, each with its reason in the shard's ledger.
"""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.core import readers, sources
from pipeline.core.config import Bytes, config
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.job import Job
from pipeline.core.languages import language_of
from pipeline.core.licences import permissive
from pipeline.core.readers import Raw
from pipeline.core.schema import DOCUMENTS, LEDGER, QUARANTINE, digest, uid
from pipeline.core.sources import Repo, Source

VERSION = 1


@config
class Config:
    source: str | Source | list[str | Source]
    """Where from: a path (its kind is guessed from its ending), a mapping, or a list of them."""
    languages: list[str] | None = None
    """Only these; None is every language found."""
    max_bytes: Bytes = 8_000_000
    """Files above this are dropped unread (OpenCoder prefilter: 8 MB)."""
    permissive_only: bool = False
    """Drop repositories whose licence is not permissive or not known (ours; StarCoder2 §2.2)."""
    shard_bytes: Bytes = 64_000_000
    """A repository larger than this is cut into several shards (ours)."""


def fingerprint(cfg: Config) -> str:
    """Changes when any listed file does; the order in which sources are named does not matter."""
    return digest(*sorted(r.fingerprint for r in _listed(cfg)))


def run(cfg: Config, job: Job) -> None:
    items = [item for repo in _listed(cfg) for item in _shards(repo, cfg.shard_bytes)]
    files = job.documents(items, partial(documents, cfg=cfg))
    if not files.shards:
        reasons = {
            r: n for record in job.base or [] for r, n in record["counts"]["dropped"].items()
        }
        raise StageError(
            f"step {job.step}: no document in {len(items)} repositories; "
            f"dropped for {reasons or 'nothing'}; check `source` and `languages`"
        )
    job.facts["repositories"] = len({record["item"] for record in job.base or []})
    job.facts["text_bytes"] = sum(record["text_bytes"] for record in job.base or [])


def _listed(cfg: Config) -> list[Repo]:
    given = cfg.source if isinstance(cfg.source, list) else [cfg.source]
    found = [sources.guess(s) if isinstance(s, str) else s for s in given]
    if not found:
        raise RecipeError("ingest: source is an empty list; name at least one")
    repos = [repo for source in found for repo in sources.repositories(source)]
    out: dict[tuple[str, str], Repo] = {}
    for repo in sorted(repos, key=lambda r: (r.source, r.name, r.fingerprint)):
        known = out.setdefault((repo.source, repo.name), repo)
        if [e.where for e in known.entries] != [e.where for e in repo.entries]:
            raise RecipeError(
                f"ingest: two sources hold a repository {repo.source}/{repo.name}: "
                f"{known.entries[0].where} and {repo.entries[0].where}; rename one of the folders"
            )
    return list(out.values())


def _shards(repo: Repo, limit: int) -> Iterator[dict[str, Any]]:
    """The shards of a repository: its files in path order, cut where they pass `limit` bytes."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{repo.source}-{repo.name}")[:60].strip("-.")
    slug += f"-{digest(repo.source, repo.name)[:6]}"
    part, size, number = [], 0, 0
    for entry in repo.entries:
        part.append(entry)
        size += entry.size
        if size >= limit:
            yield _item(repo, part, f"{slug}-{number}" if number else slug)
            part, size, number = [], 0, number + 1
    if part:
        yield _item(repo, part, f"{slug}-{number}" if number else slug)


def _item(repo: Repo, entries: list[sources.Entry], name: str) -> dict[str, Any]:
    piece = Repo(repo.source, repo.name, repo.licence, repo.kind, tuple(entries), repo.fingerprint)
    listed = digest(repo.fingerprint, *(e.path for e in entries))
    return {"name": name, "fingerprint": listed, "repo": piece}


def documents(item: dict[str, Any], cfg: Config) -> tuple[pa.Table, pa.Table]:
    """One shard: its documents, and the ledger of what was not taken and why."""
    rows: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    seen: set[str] = set()
    for raw in readers.read(item["repo"], cfg.max_bytes):
        row = document(raw, item["repo"], cfg)
        if "rule" not in row and row["uid"] in seen:
            row = _left_out(raw, "same_file", row["uid"])
        (ledger if "rule" in row else rows).append(row)
        seen.add(row.get("uid", ""))
    return pa.Table.from_pylist(rows, DOCUMENTS), pa.Table.from_pylist(ledger, LEDGER)


def document(raw: Raw, repo: Repo, cfg: Config) -> dict[str, Any]:
    """A row of DOCUMENTS, or of LEDGER with the rule that left it out."""
    given = raw.row or {}
    language = given.get("language") or language_of(raw.path)
    licence = _licence(given.get("licence")) or repo.licence
    if raw.rule:
        return _left_out(raw, raw.rule, raw.evidence)
    if language is None:
        return _left_out(raw, "not_source")
    if cfg.languages is not None and language not in cfg.languages:
        return _left_out(raw, "language", str(language))
    if cfg.permissive_only and not permissive(licence):
        return _left_out(raw, "licence", licence)
    text, problem = decoded(raw.data or b"")
    if problem or not text.strip():
        return _left_out(raw, QUARANTINE if problem else "empty", problem)
    content = digest(text)
    return {
        "uid": uid(repo.source, raw.repo, raw.path, content),
        "source": repo.source,
        "repo": raw.repo,
        "path": raw.path,
        "language": str(language),
        "licence": licence,
        "stars": _int(given.get("stars")),
        "bytes": len(text.encode()),
        "content": content,
        "text": text,
    }


def decoded(data: bytes | str) -> tuple[str, str | None]:
    """The text (without a byte order mark), or what is wrong with it."""
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff")
        text.encode()
    except UnicodeError as e:
        return "", f"invalid UTF-8: {e}"
    return ("", "NUL byte") if "\0" in text else (text, None)


def _left_out(raw: Raw, rule: str, evidence: str | None = None) -> dict[str, Any]:
    return {"repo": raw.repo, "path": raw.path, "rule": rule, "evidence": evidence}


def _licence(value: Any) -> str | None:
    if isinstance(value, list):
        value = " AND ".join(map(str, value))
    return str(value).encode("utf-8", "backslashreplace").decode() if value else None


def _int(value: Any) -> int | None:
    fits = isinstance(value, int | float) and abs(value) < 2**31  # not for nan or infinity either
    return int(value) if fits else None
