"""What a training batch is made of: the documents of its sequences, their spans, and what was done to
them; on request a sequence's text as the model saw it.

From the pack's index, the shards and the phase's settings alone, by the loader that training uses.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster import runs
from cluster.look import harmless
from pipeline.core.errors import RecipeError
from pipeline.core.files import Layer, Shard
from pipeline.core.runner import Artifact
from pipeline.core.store import Store, read_parquet
from pipeline.kernels.packing import places
from pipeline.model.batches import Batches


def batch(store: Store, name: str, number: int, sequence: int | None = None) -> dict[str, Any]:
    """Batch `number` (from 0) of a step named `step` or `run/step`; of its sequences only the one
    that is `sequence`th, if given, with its text.

    A pack step's batches are those of the phase that trains on it, or one sequence each where none
    does. RecipeError where the step is of another box, or there is no such batch or sequence.
    """
    run, step = split(store, name)
    pack, train = _phase(store, run, step)
    fed = _fed(store, pack, train)
    _check(number, fed.steps, f"step {step} has {fed.steps} batches")
    if sequence is not None:
        _check(sequence, fed.size, f"a batch of step {step} has {fed.size} sequences")
    rows = fed.pieces(number).to_pylist()
    first = number * fed.size
    wanted = [first + sequence] if sequence is not None else range(first, first + fed.size)
    shards = _shards(store, run, pack)
    told = _documents(store, pack, shards, [r for r in rows if r["sequence"] in wanted])
    spell = _tokenizer(store, run, shards[rows[0]["shard"]])
    text = None if sequence is None else _text(fed, spell, number, sequence)
    return {
        "run": run,
        "step": step,
        "batch": number,
        "batches": fed.steps,
        "length": fed.length,
        "used": sum(p["places"] for p in told),
        "sequences": [
            {"sequence": n, "pieces": [p for p in told if p["sequence"] == n]} for n in wanted
        ],
        "text": text,
    }


def split(store: Store, name: str) -> tuple[str, str]:
    """(run, step) of `step` or `run/step`; the latest run without one."""
    run, slash, step = name.partition("/")
    return (runs.named(store, run), step) if slash else (runs.named(store, None), name)


def _check(number: int, most: int, there: str) -> None:
    if not 0 <= number < most:
        raise RecipeError(f"{there}, counted from 0: there is no {number}")


def _phase(store: Store, run: str, step: str) -> tuple[Artifact, Artifact | None]:
    """(pack, train) of a step that is one of them; no train where nothing trains on the pack."""
    found = runs.artifact(store, run, step)
    every = [a for _, a in runs.made(store, run)]
    if found.stage == "train":
        key = found.manifest["identity"]["inputs"]["data"]
        return next(a for a in every if a.key == key), found
    if found.stage != "pack":
        raise RecipeError(f"step {step} uses {found.stage}; batches are of a train or a pack step")
    trained = [a for a in every if a.stage == "train"]
    on_it = [a for a in trained if a.manifest["identity"]["inputs"]["data"] == found.key]
    return found, on_it[0] if on_it else None


def _fed(store: Store, pack: Artifact, train: Artifact | None) -> Batches:
    """The batches as the phase is fed with them."""
    told: dict[str, Any] = {"batch": 1, "seed": 0, "spm_rate": 0.5}
    told |= train.manifest["identity"]["settings"] if train else {}
    files = [Path(store.local(name)) for name in pack.facts["sidecars"]]
    index = read_parquet(pack.folder / "index.parquet")
    return Batches(
        index, files, pack.facts["length"], told["batch"], told["seed"], told["spm_rate"]
    )


def _documents(
    store: Store, pack: Artifact, shards: Sequence[Shard], rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row a piece: its document's name, and its span in tokens of that document."""
    named = {
        n: _named(store, shards[n], {r["uid"] for r in rows if r["shard"] == n})
        for n in {r["shard"] for r in rows}
    }
    sources = pack.facts["sources"]
    out = []
    for r in rows:
        document = named[r["shard"]][r["uid"]]
        source = next(
            n for n, s in sources.items() if s["shards"][0] <= r["shard"] < s["shards"][1]
        )
        done = "corrupted" if r["spans"] else "infilled" if r["infill"] else "plain"
        out.append(
            {k: r[k] for k in ("sequence", "uid", "epoch", "masked", "spans")}
            | {k: document[k] for k in ("repo", "path", "language")}
            | {"source": source, "offset": r["start"] - document["first"], "length": r["length"]}
            | {"of": document["length"], "done": done, "ends": r["end"] >= 0}
            | {"places": _places(r)}
        )
    return out


def _places(row: dict[str, Any]) -> int:
    """Places that a piece takes in its sequence, sentinels and end token included."""
    length, infill, spans = (np.array([row[n]]) for n in ("length", "infill", "spans"))
    return int(places(length, infill, spans, np.array([row["end"] >= 0]))[0])


def _shards(store: Store, run: str, pack: Artifact) -> list[Shard]:
    """The pack's shards by number: of its sources in the order of their names."""
    given = pack.manifest["identity"]["inputs"]["files"]
    keys = [given[n] for n in sorted(given)] if isinstance(given, dict) else [given]
    by_key = {a.key: a for _, a in runs.made(store, run)}
    return [s for key in keys for s in by_key[key].files.shards]


def _named(store: Store, shard: Shard, uids: set[str]) -> dict[str, dict[str, Any]]:
    """uid -> repo, path, language of documents, and where their tokens begin and how many they are."""
    base = read_parquet(store.local(shard.layers[0].file), ["uid", "repo", "path", "language"])
    where = read_parquet(store.local(_tokens(shard).file), ["start", "length"])
    base = base.append_column("first", where["start"]).append_column("length", where["length"])
    found = base.filter(pc.is_in(base["uid"], pa.array(sorted(uids))))
    return {row["uid"]: row for row in found.to_pylist()}


def _tokens(shard: Shard) -> Layer:
    return [layer for layer in shard.layers if layer.kind == "tokens"][-1]


def _tokenizer(store: Store, run: str, shard: Shard) -> Path:
    """The folder of the tokenizer that made the shard's tokens."""
    every = [a for _, a in runs.made(store, run)]
    for a in every:
        records = [r for layer in a.manifest["layers"] for r in layer["shards"]]
        if a.stage == "tokenize" and any(r["file"] == _tokens(shard).file for r in records):
            key = a.manifest["identity"]["inputs"]["tokenizer"]
            return next(t.folder for t in every if t.key == key)
    raise RecipeError(f"run {run} has no step that made the tokens of shard {shard.name}")


def _text(fed: Batches, tokenizer: Path, number: int, sequence: int) -> str:
    """A sequence as the model saw it, special tokens spelled out, secrets replaced."""
    from tokenizers import Tokenizer

    spelled = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids, labels, _ = fed.batch(number)
    seen = ids[sequence][labels[sequence] >= 0].tolist()
    text = str(spelled.decode(seen, skip_special_tokens=False))
    return harmless(text, "batch.txt", longest=len(text))


def tell(told: dict[str, Any], out: Console) -> None:
    """A batch for people: a line a piece of a document; then the text, if it was asked for."""
    room = len(told["sequences"]) * told["length"]
    out.print(
        f"[bold]{escape(told['step'])}[/] batch {told['batch']} of {told['batches']}: "
        f"{len(told['sequences'])} sequences of {told['length']:,} tokens, of which "
        f"{room - told['used']:,} are padding"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("sequence", "document", "tokens", "of", "pass", "source", "objective"):
        right = name in ("sequence", "tokens", "of", "pass")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for found in told["sequences"]:
        for i, piece in enumerate(found["pieces"]):
            table.add_row("" if i else str(found["sequence"]), *_line(piece))
    out.print(table)
    out.print("tokens: offset:length in the document's own tokens; special tokens are not counted")
    if told["text"] is not None:
        out.print(Panel(Text(told["text"]), title="as the model sees it", title_align="left"))


def _line(piece: dict[str, Any]) -> list[str]:
    done = piece["done"]
    if piece["spans"]:
        done += f": {piece['masked']:,} tokens in {piece['spans']} span{'s' * (piece['spans'] > 1)}"
    span = f"{piece['offset']:,}:{piece['length']:,}"
    name = escape(f"{piece['repo']}/{piece['path']}")
    return [name, span, f"{piece['of']:,}", str(piece["epoch"] + 1), escape(piece["source"]), done]
