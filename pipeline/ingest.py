"""Source repositories -> documents: one row a file, text written once.

Takes folders, git repositories, archives, tables, npm or Python packages; gives documents in shards
(small repositories share one, a repository's files stay together). Knows nothing of quality: what is
no readable source text, not licensed as asked or opted out is left out, each with its reason.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.core import licences, optout, readers, sources
from pipeline.core.config import Bytes, config
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.groups import ROW_BYTES, shards
from pipeline.core.job import Job
from pipeline.core.language_table import EXTENSIONS, NAMES
from pipeline.core.languages import language_of
from pipeline.core.licences import Policy
from pipeline.core.optout import OptOut
from pipeline.core.repos import Raw, Repo
from pipeline.core.schema import DOCUMENTS, LEDGER, QUARANTINE, digest, uid
from pipeline.core.sources import Source
from pipeline.core.store import read_parquet

VERSION = 2
HEAD = 8192
"""Bytes of a file's beginning that its language may depend on (ours)."""
HEADER = 2048
"""Bytes of a file's beginning in which its licence may be stated (ours)."""
KNOWN = {k.casefold(): k for k in (*EXTENSIONS, *NAMES)}
"""Folded name -> the name that files get."""


@config
class Config:
    source: str | Source | list[str | Source]
    """Where from: a path (its kind is guessed from its ending and what lies there), a mapping, or a
    list of them."""
    languages: list[str] | None = None
    """Only these; None is every language found."""
    max_bytes: Bytes = 8_000_000
    """Files above this are dropped unread (OpenCoder prefilter: 8 MB)."""
    licences: Policy = "any"
    """What a file's licence must be: any, permissive, permissive+unlicensed (StarCoder2 §2.2), or a
    list of SPDX identifiers. A file's own SPDX header counts before its repository's (ours)."""
    opt_out: str | None = None
    """A list of repositories, authors and paths to leave out: a file with `repo: owner/name`,
    `author: name` or `path: glob` in each line (StarCoder2 §2.2)."""
    notebooks: Literal["script", "raw", "drop"] = "script"
    """Notebooks become scripts in their language (StarCoder2 app. B), stay JSON, or are dropped."""
    redact: bool = False
    """Replace secrets and personal data before anything is written, so that the store never holds
    them; the `redact` box, which keeps the text and writes edits, then finds none (ours)."""
    shard_bytes: Bytes = 64_000_000
    """At most about this much text in a shard; small repositories share shards of a quarter (ours)."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes is {self.max_bytes}; it must be at least 1")
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes is {self.shard_bytes}; it must be at least 1")
        for language in self.languages or []:
            known = KNOWN.get(language.casefold(), language)
            if known != language:  # one that we do not know may be a table's own
                raise ValueError(f"languages: {language!r} is written {known!r}")


def fingerprint(cfg: Config) -> str:
    """Changes when a listed file or the opt-out list does; the order of sources does not matter."""
    rules = optout.load(cfg.opt_out).fingerprint if cfg.opt_out else ""
    return digest(rules, *sorted(r.fingerprint for r in _listed(cfg)))


def run(cfg: Config, job: Job) -> None:
    rules = optout.load(cfg.opt_out) if cfg.opt_out else None
    listed = _listed(cfg)
    mark = rules.fingerprint if rules else ""
    items = list(shards(listed, cfg.max_bytes, cfg.shard_bytes, mark))
    files = job.documents(items, partial(documents, cfg=cfg, rules=rules))
    if not files.shards:
        raise StageError(f"step {job.step}: no document in {_nothing(job, len(listed))}")
    base = job.base or []
    job.facts["repositories"] = len(listed)
    job.facts["text_bytes"] = sum(record["text_bytes"] for record in base)
    if rules is not None:
        job.facts["opted_out"] = sum(r["counts"]["dropped"].get("opt_out", 0) for r in base)


def _nothing(job: Job, repositories: int) -> str:
    """What was there instead of documents: the reasons, and the first error."""
    reasons: Counter[str] = Counter()
    errors: list[str] = []
    for record in job.base or []:
        reasons.update(record["counts"]["dropped"])
        if record["counts"]["quarantined"]:
            reasons[QUARANTINE] += record["counts"]["quarantined"]
            if not errors:
                rows = read_parquet(job.store.local(record["ledger"])).to_pylist()
                errors = [f"{r['path']}: {r['evidence']}" for r in rows if r["rule"] == QUARANTINE]
    first = f" (first: {errors[0]})" if errors else ""
    left = dict(sorted(reasons.items())) or "nothing"
    return (
        f"{repositories} repositories; left out for {left}{first}; "
        "check `source`, `languages` and `licences`"
    )


def _listed(cfg: Config) -> list[Repo]:
    given = cfg.source if isinstance(cfg.source, list) else [cfg.source]
    found = [sources.guess(s) if isinstance(s, str) else s for s in given]
    if not found:
        raise RecipeError("ingest: source is an empty list; name at least one")
    repos = [repo for source in found for repo in sources.repositories(source)]
    out: dict[tuple[str, str], Repo] = {}
    for repo in sorted(repos, key=lambda r: (r.source, r.name, r.root)):
        known = out.setdefault((repo.source, repo.name), repo)
        if known is not repo and known != repo:
            raise RecipeError(
                f"ingest: two sources hold a repository {repo.source}/{repo.name}: "
                f"{known.root} and {repo.root}; rename one of the folders"
                + (" (or take it in one way only)" if known.root == repo.root else "")
            )
    return list(out.values())


class Row(NamedTuple):
    """A document before it is in a table: DOCUMENTS' columns, the text as bytes."""

    uid: str
    source: str
    repo: str
    path: str
    language: str
    licence: str | None
    stars: int | None
    size: int
    content: str
    text: bytes


class Left(NamedTuple):
    """A row of LEDGER."""

    repo: str
    path: str
    rule: str
    evidence: str | None


@dataclass
class Part:
    """A shard being filled."""

    rows: list[Row] = field(default_factory=list)
    ledger: list[Left] = field(default_factory=list)
    held: int = 0

    def add(self, made: Row | Left) -> None:
        if isinstance(made, Row):
            self.rows.append(made)
            self.held += made.size + ROW_BYTES
        else:
            self.ledger.append(made)
            self.held += ROW_BYTES


def documents(
    item: dict[str, Any], cfg: Config, rules: OptOut | None = None
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """An item's shards: documents, and the ledger of what was not taken and why."""
    part, seen, done = Part(), set[str](), 0
    for repo in item["repos"]:
        for raw in readers.read(repo, cfg.max_bytes, partial(unwanted, rules=rules)):
            part.add(document(raw, repo.source, cfg))
            if part.held >= cfg.shard_bytes:
                yield _tables(part, cfg, seen)
                part, done = Part(), done + 1
    if part.held or not done:
        yield _tables(part, cfg, seen)


def unwanted(
    repo: str, path: str, authors: tuple[str, ...], language: str | None, rules: OptOut | None
) -> tuple[str, str | None] | None:
    """The rule and evidence for which a file is not even read. A name without an ending may be a script."""
    if rules is not None:
        hits = (rules.rule(repo, author, path) for author in authors or (None,))
        if hit := next((h for h in hits if h), None):
            return "opt_out", hit
    if language is None and not language_of(path) and "." in path.rpartition("/")[2]:
        return "not_source", None
    return None


def document(raw: Raw, source: str, cfg: Config) -> Row | Left:
    """The row of a file that is taken, or the rule that leaves it out."""
    if raw.rule is not None or raw.data is None:
        return Left(raw.repo, raw.path, raw.rule or QUARANTINE, raw.evidence)
    data = raw.data.removeprefix(b"\xef\xbb\xbf")
    language = raw.language or language_of(raw.path, data[:HEAD])
    if why := _left_out(raw, data, language, cfg):
        return Left(raw.repo, raw.path, *why)
    if language == NOTEBOOK and cfg.notebooks == "script":
        try:
            data, language = _script(data)
        except ValueError as e:
            return Left(raw.repo, raw.path, QUARANTINE, str(e)[:300])
    if not data[:256].decode("utf-8", "ignore").strip() and not data.decode().strip():
        return Left(raw.repo, raw.path, "empty", None)
    if cfg.languages is not None and not {language, raw.language} & set(cfg.languages):
        return Left(raw.repo, raw.path, "language", language)
    licence = _own_licence(data) or raw.licence
    if cfg.licences != "any" and not licences.allowed(licence, cfg.licences):
        return Left(raw.repo, raw.path, "licence", licence or "none stated")
    return _row(source, raw, str(language), licence, data)


NOTEBOOK = "Jupyter Notebook"


def _left_out(
    raw: Raw, data: bytes, language: str | None, cfg: Config
) -> tuple[str, str | None] | None:
    if language is None:
        return "not_source", None
    if cfg.notebooks == "drop" and language == NOTEBOOK:
        return "notebook", None
    if b"\0" in data:
        return QUARANTINE, "NUL byte"
    try:
        data.decode()
    except UnicodeDecodeError as e:
        return QUARANTINE, f"invalid UTF-8: {e}"
    if data.startswith(b"version https://git-lfs.github.com/spec/"):
        return "lfs_pointer", None
    return None


def _script(data: bytes) -> tuple[bytes, str]:
    from pipeline.core.notebooks import script

    text, language = script(data.decode())
    return text.encode(), language


def _own_licence(data: bytes) -> str | None:
    head = data[:HEADER]
    return licences.from_header(head.decode("utf-8", "ignore")) if b"SPDX" in head else None


def _row(source: str, raw: Raw, language: str, licence: str | None, data: bytes) -> Row:
    content = digest(data)
    name = uid(source, raw.repo, raw.path, content)
    rest = (language, licence, raw.stars, len(data), content, data)
    return Row(name, source, raw.repo, raw.path, *rest)


def _tables(part: Part, cfg: Config, seen: set[str]) -> tuple[pa.Table, pa.Table]:
    """A part's rows, a repository's together, and its ledger. `seen`: the uids of earlier parts."""
    first = {row.repo: n for n, row in reversed(list(enumerate(part.rows)))}
    rows = sorted(part.rows, key=lambda row: first[row.repo])
    rows = _redacted(rows) if cfg.redact else rows
    kept, ledger = [], list(part.ledger)
    for row in rows:
        if row.uid in seen:
            ledger.append(Left(row.repo, row.path, "same_file", row.uid))
        else:
            kept.append(row)
            seen.add(row.uid)
    return _table(kept), _columns(ledger, LEDGER)


def _table(rows: list[Row]) -> pa.Table:
    names = DOCUMENTS.remove(len(DOCUMENTS) - 1)
    table = _columns([row[:-1] for row in rows], names)
    return table.append_column(DOCUMENTS.field("text"), _texts([row.text for row in rows]))


def _texts(texts: list[bytes]) -> pa.Array:
    """Valid UTF-8 texts as a column, copied once."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(t) for t in texts], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)


def _columns(rows: list[Any], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
    )


def _redacted(rows: list[Row]) -> list[Row]:
    """The rows with their secrets replaced: other texts, other content hashes, other uids."""
    from pipeline.core.files import apply_edits
    from pipeline.kernels.secrets import Kinds, edits

    paths, languages = [r.path for r in rows], [r.language for r in rows]
    found = edits(_texts([r.text for r in rows]), Kinds(), pa.array(paths), pa.array(languages))
    out = list(rows)
    for at in np.flatnonzero(np.diff(found.offsets.to_numpy())).tolist():
        row = rows[at]
        data = apply_edits(row.text.decode(), found[at].as_py()).encode()
        raw = Raw(row.repo, row.path, data, stars=row.stars)
        out[at] = _row(row.source, raw, row.language, row.licence, data)
    return out
