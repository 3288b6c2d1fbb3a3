"""Documents -> tokens: one flat integer file per shard, and where each document lies in it.

A layer with `start` and `length` (in tokens) over the shard's `.u16` or `.u32` file, which training
maps into memory. No special tokens: packing adds them. gigatoken encodes where it is installed and
gives the ids of Hugging Face's `tokenizers`, which encodes otherwise: the bytes are the same.
"""

import json
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import field
from functools import cache, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.arrays import flat
from pipeline.core.config import config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.runner import Artifact

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERSION = 2
log = logging.getLogger(__name__)

I64 = NDArray[np.int64]
Engine = Literal["gigatoken", "tokenizers"]
BATCH = 4_000_000
"""Bytes of text that `tokenizers` gets at once: its answer takes 100 bytes a token and more (ours)."""
SAMPLE = 64_000
"""Characters of the smallest shard's documents that both engines encode before a run (ours)."""
AUDIT = "000"
"""Documents whose uid begins so, 1 in 4096, are encoded by both engines (ours: 2 % of the time)."""
PROBES = (
    "",
    *map(chr, range(256)),
    *(f"a{w}b {w}{w}c{w * 9}\n{w}" for w in " \t\n\r\v\f\0\x85\xa0\u2003\u2028\u3000\u200b\ufeff"),
    " \n\n  \n\t\r\n \r\r x \n y\n",
    "it's IT'S we'Re 'sa 'LL '\u017f ''s \u2019s don't'd 'm1",
    "0 00 1234567 1_000 0x1F \u0663\u0664 \u2167 \u00bd x2\u00b2",
    "e\u0301\u0323 \u0301x \u0928\u092e\u0938\u094d\u0924\u0947 \u0e19\u0e49\u0e33 \u0623\u064e",
    "\u1112\u1161\u11ab \ud55c \u6f22\u5b57 \U0001d4d0 \U00020000 \ue000 \U000f0000 \U0010ffff",
    "\U0001f469\u200d\U0001f4bb\ufe0f \U0001f1eb\U0001f1f7 \U000e0041",
    "\u088f's \ua7ce's a\u0378b's \u1acf's \U000323b0's \U0001df25's",  # new in Unicode 17
    *("a" * 5000, "=" * 5000, " " * 5000, "\n" * 5000, "9" * 500, "\u00e9" * 500),
)
"""Texts on which encoders are known to differ: white space, contractions, marks, pictures, code
points that are new or have no meaning, runs without a break (ours)."""
_BEYOND = 0x40000
"""Planes above hold tags and private use, which Unicode does not move."""


@config
class Config:
    engine: Literal["auto", "gigatoken", "tokenizers"] = field(
        default="auto", metadata={"identity": False}
    )
    """What encodes; the tokens are the same. auto: gigatoken where it is installed and exact, else
    tokenizers (ours). gigatoken: that or an error."""


def run(files: Files, tokenizer: Artifact, cfg: Config, job: Job) -> None:
    if tokenizer.stage != "tokenizer":
        raise StageError(
            f"step {job.step}: `tokenizer` is a step of box {tokenizer.stage}; name one of box tokenizer"
        )
    path = str(tokenizer.folder / "tokenizer.json")
    dtype = "uint16" if tokenizer.facts["size"] <= 2**16 else "uint32"
    engine = chosen(path, cfg.engine, _some(files))
    strict = cfg.engine == "gigatoken"
    judge = partial(encode, tokenizer=path, dtype=dtype, engine=engine, strict=strict)
    same = {"tokenizer": tokenizer.digest}  # not the engine
    out = job.layer(files, judge, ["text"], kind="tokens", identity=same, sidecar=("ids", dtype))
    lengths = [np.sum(t["length"].to_numpy()) for t in job.collect(out, None, ["length"])]
    job.facts |= {
        "tokens": int(sum(lengths)),
        "dtype": dtype,
        "vocabulary": tokenizer.facts["size"],
        "engine": engine,
    }


def _some(files: Files) -> pa.Table:
    """Documents (uid, text) of the smallest shard, up to SAMPLE characters."""
    if not files.shards:
        return pa.table({"uid": pa.array([], pa.string()), "text": pa.array([], pa.large_string())})
    table = files.read(min(files.shards, key=lambda s: (s.rows, s.name)), ["text"])
    length = np.cumsum(pc.utf8_length(table["text"]).to_numpy())
    return table.slice(0, int(np.searchsorted(length, SAMPLE, side="right")))


def chosen(tokenizer: str, wanted: str, documents: pa.Table) -> Engine:
    """The engine for a tokenizer.json: gigatoken has to give the ids of `tokenizers` on `probes` and
    on the documents (uid, text).

    StageError when gigatoken is `wanted` and does not; else a log line says why it is not used.
    """
    if wanted == "tokenizers":
        return "tokenizers"
    why = _refusal(tokenizer, documents)
    if why and wanted == "gigatoken":
        raise StageError(f"tokenize: engine is gigatoken, but {why}; leave `engine` out")
    if why:
        log.info("tokenize by tokenizers, which is slower: %s", why)
    return "tokenizers" if why else "gigatoken"


def _refusal(tokenizer: str, documents: pa.Table) -> str | None:
    try:
        _gigatoken(tokenizer)
    except ImportError as e:
        return f"gigatoken cannot be imported ({e}); pip install 'icefloe[fast]'"
    except (RuntimeError, ValueError) as e:
        return f"gigatoken refuses this tokenizer: {str(e).splitlines()[0]}"
    texts = probes(tokenizer)
    names = [f"probe {i}" for i in range(len(texts))] + documents["uid"].to_pylist()
    probed = pa.array(texts, pa.large_string())
    return difference(tokenizer, names, pa.chunked_array([probed, *documents["text"].chunks]))


def probes(tokenizer: str) -> list[str]:
    """PROBES, characters of every script below U+3000 in seven surroundings, and the tokenizer's
    own added tokens spelled out."""
    added = [t.content for t in _tokenizers(tokenizer).get_added_tokens_decoder().values()]
    some = [chr(c) for c in range(0x3000) if c < 0x250 or not c % 10]
    known = [c for c in some if unicodedata.category(c) != "Cn"]  # the others are `_doubtful`
    return [
        *PROBES,
        *("".join(c + pad for c in known) for pad in ("", " ", "a", "1", "'s ", "\n", "\u0301")),
        *(f"{a[:-1]} {a} {a}{a[0]}\n{a}" for a in added),
        "".join(added),
    ]


def difference(
    tokenizer: str, names: Sequence[str], texts: pa.ChunkedArray | pa.Array
) -> str | None:
    """Where gigatoken's ids first differ from those of `tokenizers`: name, token, both ids."""
    found, wanted = _by_gigatoken(tokenizer, texts), _by_tokenizers(tokenizer, texts)
    if found.equals(wanted):
        return None
    for name, a, b in zip(names, found, wanted, strict=True):
        if a != b:
            pairs = zip([*a.as_py(), None], [*b.as_py(), None], strict=False)
            at, (mine, theirs) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
            return f"gigatoken differs at {name}, token {at}: {mine} for {theirs}"
    return None


def encode(
    table: pa.Table, tokenizer: str, dtype: str, engine: Engine, strict: bool = False
) -> pa.Table:
    """Every document (uid, text) kept, with its token `ids`; a special token's spelling is split.

    Where an audited document shows a difference, `tokenizers` encodes the whole table, or, if
    `strict`, a StageError is raised.
    """
    why = _audit(table, tokenizer) if engine == "gigatoken" else None
    if why and strict:
        raise StageError(f"tokenize: {why}; leave `engine` out")
    if why:
        log.warning("tokenize one shard by tokenizers: %s", why)
    made = _by_tokenizers if why or engine == "tokenizers" else _by_gigatoken
    ids = made(tokenizer, table["text"])
    kind = pa.large_list(pa.from_numpy_dtype(np.dtype(dtype)))
    return verdicts(table["uid"], [None] * len(table), ids=ids.cast(kind))


def _audit(table: pa.Table, tokenizer: str) -> str | None:
    rows = table.filter(pc.starts_with(table["uid"], AUDIT))
    return difference(tokenizer, rows["uid"].to_pylist(), rows["text"]) if len(rows) else None


def _by_tokenizers(tokenizer: str, texts: pa.ChunkedArray | pa.Array) -> pa.LargeListArray:
    made, lengths, parts = _tokenizers(tokenizer), [0], [np.empty(0, np.uint32)]
    _, bounds = flat(texts)
    starts = np.flatnonzero(np.diff((bounds[:-1] - bounds[0]) // BATCH, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, len(texts)]):
        batch = texts.slice(start, stop - start).to_pylist()
        ids = [e.ids for e in made.encode_batch_fast(batch, add_special_tokens=False)]
        lengths += map(len, ids)
        parts.append(np.fromiter(chain.from_iterable(ids), np.uint32))
    return pa.LargeListArray.from_arrays(np.cumsum(lengths), np.concatenate(parts))


def _by_gigatoken(tokenizer: str, texts: pa.ChunkedArray | pa.Array) -> pa.LargeListArray:
    """From Arrow's memory to Arrow's memory; doubtful texts by `tokenizers`."""
    out = _gigatoken(tokenizer).encode_batch(_awkward(texts), parallel=False).layout
    ids = pa.LargeListArray.from_arrays(out.offsets.data, out.content.data)
    doubtful = _doubtful(texts)
    if not len(doubtful):
        return ids
    at = np.arange(len(ids))
    at[doubtful] = len(ids) + np.arange(len(doubtful))
    sure = _by_tokenizers(tokenizer, texts.take(pa.array(doubtful)))
    return pa.concat_arrays([ids, sure]).take(pa.array(at))


def _awkward(texts: pa.ChunkedArray | pa.Array) -> Any:
    """The texts as gigatoken takes them, without a copy."""
    import awkward as ak

    data, bounds = flat(texts)
    characters = ak.contents.NumpyArray(data, parameters={"__array__": "char"})
    strings = ak.contents.ListOffsetArray(
        ak.index.Index64(bounds), characters, parameters={"__array__": "string"}
    )
    return ak.Array(strings)


def _doubtful(texts: pa.ChunkedArray | pa.Array) -> I64:
    """The rows with a code point that this Python's Unicode gives no meaning: a newer Unicode may,
    and gigatoken (17) and `tokenizers` (16) are not of one."""
    rest = np.flatnonzero(~np.asarray(pc.string_is_ascii(texts)))
    found = pc.match_substring_regex(texts.take(pa.array(rest)), _unassigned())
    at: I64 = rest[np.asarray(found, bool)]
    return at


@cache
def _unassigned() -> str:
    """A regular expression for one code point that Unicode has not assigned."""
    without = [unicodedata.category(chr(c)) == "Cn" for c in range(_BEYOND)]
    edges = np.flatnonzero(np.diff(without, prepend=False, append=False)).reshape(-1, 2)
    return "[" + "".join(f"\\x{{{a:x}}}-\\x{{{b - 1:x}}}" for a, b in edges.tolist()) + "]"


@cache
def _tokenizers(path: str) -> "Tokenizer":
    """The tokenizer, without what would add, cut or pad; one instance a process."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(path)
    made.encode_special_tokens = True
    made.no_truncation()
    made.no_padding()
    return made


@cache
def _gigatoken(path: str) -> Any:
    """gigatoken's reading of the tokenizer, special tokens left out so that their spelling is split.

    One instance a process, since its speed is a cache of the words it has met.
    """
    from gigatoken import Tokenizer

    made = json.loads(Path(path).read_text())
    made["added_tokens"] = [t for t in made["added_tokens"] if not t["special"]]
    return Tokenizer.from_json(json.dumps(made))
