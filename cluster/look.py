"""Files that a step kept beside files that it dropped, with the rule and the value, to judge rules by.

Which files is drawn by hash, so that the same question shows the same files. A near copy is shown as
its difference from the file that was kept instead. Texts are shown as the step's readers see them, and
never with a secret in them, whatever the store holds: what is shown ends in terminals and reports.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from pipeline.core.errors import RecipeError, did_you_mean
from pipeline.core.files import Shard, apply_edits, read_shard
from pipeline.core.runner import Artifact
from pipeline.core.schema import digest
from pipeline.core.store import Store, read_parquet

LINES = 14
"""Lines of a file shown in the terminal (ours)."""
LONGEST = 4000
"""Characters of a file, or of a difference, that are carried at all (ours)."""


@dataclass(frozen=True)
class Example:
    """A file as a step judged it; `rule` is None where it was kept. diff: from its kept twin."""

    uid: str | None
    repo: str
    path: str
    language: str | None
    rule: str | None
    value: float | None
    evidence: str | None
    text: str | None
    diff: str | None = None


def dropped(artifact: Artifact, n: int, rule: str | None = None, seed: int = 0) -> list[Example]:
    """Up to `n` files that the step dropped (under `rule`, if given), near copies with differences.

    Raises RecipeError when no file was dropped under that rule, naming the rules there are.
    """
    rules = (artifact.manifest["rows"] or {"dropped": {}, "quarantined": 0})["dropped"]
    quarantined = (artifact.manifest["rows"] or {}).get("quarantined", 0)
    known = [*rules, *(["quarantine"] if quarantined else [])]
    if rule is not None and rule not in known:
        step = artifact.manifest["step"]
        raise RecipeError(
            f"step {step} dropped nothing under {rule!r}{did_you_mean(rule, known)}"
            + (f"; its rules: {', '.join(known)}" if known else "; it dropped nothing")
        )
    return [_with_diff(artifact, e) for e in _first(_walk(artifact, rule, True, seed), n)]


def kept(artifact: Artifact, n: int, seed: int = 0) -> list[Example]:
    """Up to `n` files that the step kept."""
    return _first(_walk(artifact, None, False, seed), n)


def _first(found: Iterator[Example], n: int) -> list[Example]:
    return [example for example, _ in zip(found, range(n), strict=False)]


def _walk(artifact: Artifact, rule: str | None, gone: bool, seed: int) -> Iterator[Example]:
    """Shard by shard in the order of their names' hashes, a few files of each, then the rest."""
    if artifact.manifest["base"] is not None and gone:
        yield from _ledger(artifact, rule, seed)
        return
    if artifact.manifest["base"] is None and not artifact.manifest["layers"]:
        return
    shards = sorted(artifact.files.shards, key=lambda s: digest(str(seed), s.name))
    for shard in shards:
        yield from _of_shard(
            artifact.store, shard, len(artifact.manifest["layers"]), rule, gone, seed
        )


def _of_shard(
    store: Store, shard: Shard, layers: int, rule: str | None, gone: bool, seed: int
) -> Iterator[Example]:
    """The step's files in a shard; its own layers are the last `layers` of the chain."""
    under = len(shard.layers) - layers
    below, own = replace(shard, layers=shard.layers[:under]), shard.layers[under:]
    told: dict[str, dict[str, Any]] = {}
    for layer in own:
        table = read_parquet(store.local(layer.file), ["uid", "keep", "rule", "value", "evidence"])
        told |= {r["uid"]: r for r in table.filter(table["keep"].is_valid()).to_pylist()}
    table = read_shard(store, below if gone else shard, ["repo", "path", "language"])
    rows = [r | told.get(r["uid"], {"keep": True, "rule": None}) for r in table.to_pylist()]
    wanted = [r for r in rows if bool(r["keep"]) != gone and rule in (None, r["rule"])]
    texts = read_shard(store, below if gone else shard, ["text"])
    for row in sorted(wanted, key=lambda r: digest(str(seed), r["uid"])):
        text = texts.filter(pc.equal(texts["uid"], row["uid"]))["text"][0].as_py()
        yield _example(row, harmless(text, row["path"]))


def harmless(text: str, path: str, longest: int = LONGEST) -> str:
    """The beginning of a text, its secrets replaced: a step before `redact` has them still."""
    from pipeline.kernels import secrets

    found = secrets.edits(pa.array([text]), secrets.Kinds(), pa.array([path]))
    return apply_edits(text, found[0].as_py())[:longest]


def _example(row: dict[str, Any], text: str | None) -> Example:
    names = ("uid", "repo", "path", "language", "rule", "value", "evidence")
    return Example(**{name: row.get(name) for name in names}, text=text)  # type: ignore[arg-type]


def _ledger(artifact: Artifact, rule: str | None, seed: int) -> Iterator[Example]:
    """What a step that makes documents did not take: it has no text of those."""
    records = [r for r in artifact.manifest["base"] if r["counts"]["in"] > r["rows"]]
    for record in sorted(records, key=lambda r: digest(str(seed), r["name"])):
        rows = read_parquet(artifact.store.local(record["ledger"])).to_pylist()
        wanted = [r for r in rows if rule in (None, r["rule"])]
        for row in sorted(wanted, key=lambda r: digest(str(seed), r["repo"], r["path"])):
            yield _example(row, None)


def _with_diff(artifact: Artifact, example: Example) -> Example:
    """A near copy with its difference from the file kept instead of it."""
    if example.rule != "near" or not example.evidence or example.text is None:
        return example
    twin = _find(artifact, example.evidence)
    if twin is None:
        return example
    lines = difflib.unified_diff(
        harmless(twin["text"], twin["path"]).splitlines(),
        example.text.splitlines(),
        f"kept {twin['repo']}/{twin['path']}",
        f"dropped {example.repo}/{example.path}",
        n=1,
        lineterm="",
    )
    return replace(example, diff="\n".join(lines)[:LONGEST])


def _find(artifact: Artifact, uid: str) -> dict[str, Any] | None:
    """A document of the step, or of the older corpus that it was held `against`."""
    for shard in (s for made in (artifact, *_against(artifact)) for s in made.files.shards):
        path = artifact.store.local(shard.layers[0].file)
        if pc.any(pc.equal(read_parquet(path, ["uid"])["uid"], uid)).as_py():
            table = read_shard(artifact.store, shard, ["repo", "path", "text"])
            found = table.filter(pc.equal(table["uid"], uid)).to_pylist()
            return found[0] if found else None
    return None


def _against(artifact: Artifact) -> Iterator[Artifact]:
    key = artifact.manifest["identity"]["inputs"].get("against")
    for path in artifact.store.local().glob(f"*/{key}/manifest.json") if key else ():
        yield Artifact(artifact.store, path.parent.parent.name, key)


def sections(made: Sequence[tuple[str, Artifact]], each: int = 2) -> list[dict[str, Any]]:
    """For every step that dropped files: `each` of every rule, and as many that it kept."""
    out = []
    for name, artifact in made:
        rows = artifact.manifest["rows"] or {"dropped": {}, "quarantined": 0}
        rules = [*rows["dropped"], *(["quarantine"] if rows["quarantined"] else [])]
        gone = [example for rule in rules for example in dropped(artifact, each, rule)]
        if gone:
            stay = kept(artifact, len(gone))
            out.append({"name": name, "stage": artifact.stage, "kept": stay, "dropped": gone})
    return out


def as_data(left: Sequence[Example], right: Sequence[Example]) -> dict[str, Any]:
    """Both sides as plain data."""
    return {"kept": [asdict(e) for e in left], "dropped": [asdict(e) for e in right]}


def tell(left: Sequence[Example], right: Sequence[Example], out: Console) -> None:
    """Kept files on the left, dropped ones on the right; one column where only one is asked for."""
    sides = [side for side in (left, right) if side]
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in sides:
        grid.add_column(ratio=1)
    for row in range(max(map(len, sides), default=0)):
        grid.add_row(*(_panel(side[row]) if row < len(side) else "" for side in sides))
    out.print(grid if sides else "Nothing to show.")


def _panel(example: Example) -> Panel:
    colour = "red" if example.rule else "green"
    title = Text(f"{example.repo}/{example.path}", overflow="ellipsis", no_wrap=True)
    return Panel(
        _body(example),
        title=title,
        title_align="left",
        subtitle=Text(said(example), overflow="ellipsis", no_wrap=True),
        subtitle_align="left",
        border_style=colour,
    )


def said(example: Example) -> str:
    """`long_line 1,204`, `near 0.84 of 3f2a...`: why it was dropped, in a few words."""
    if example.rule is None:
        return "kept"
    value = "" if example.value is None else f" {example.value:,.4g}"
    return f"{example.rule}{value}" + (f": {example.evidence}" if example.evidence else "")


def _body(example: Example) -> RenderableType:
    if example.diff is not None:
        return Syntax(_cut(example.diff), "diff", word_wrap=False)
    if example.text is None:
        return Text("not taken, so not stored", style="dim")
    return Syntax(_cut(example.text), (example.language or "text").lower(), word_wrap=False)


def _cut(text: str) -> str:
    return "\n".join(line[:300] for line in text.splitlines()[:LINES])
