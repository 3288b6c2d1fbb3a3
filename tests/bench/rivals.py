"""Other tools' near-duplicate removal on a list of texts, as their users run them on one core.

Each gives a mask of the texts it keeps. Shingles of 5 words (each tool's own idea of a word) and a
threshold of 0.7 throughout; bands as each tool sets them by default.
"""

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np

from tests.bench.truth import _WORD

Rival = Callable[[list[str]], np.ndarray]


def available(texts: list[str]) -> dict[str, Rival]:
    """The rivals that can be imported here, by name."""
    found: dict[str, Rival] = {"datasketch (bulk)": with_datasketch}
    if find_spec("rensa"):
        found["rensa"] = with_rensa
    if find_spec("text_dedup"):
        found["text-dedup"] = with_text_dedup
    if find_spec("datatrove"):
        found["datatrove (regex words)"] = partial(with_datatrove, regex=True)
        if find_spec("spacy"):
            found["datatrove (as shipped)"] = partial(with_datatrove, regex=False)
    return found


def _shingles(text: str) -> list[bytes]:
    words = _WORD.findall(text.lower().encode())
    n = min(5, len(words))
    return list({b" ".join(words[i : i + n]) for i in range(len(words) - n + 1)})


def _union(count: int, groups: Iterable[Sequence[int]]) -> np.ndarray:
    """Connected components, the first document of each kept."""
    parent = list(range(count))

    def find(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for group in groups:
        for other in group[1:]:
            a, b = find(group[0]), find(other)
            parent[max(a, b)] = min(a, b)
    return np.array([find(i) == i for i in range(count)])


def _by_band(signatures: np.ndarray, bands: int, rows: int) -> Iterable[list[int]]:
    for band in range(bands):
        table: dict[bytes, list[int]] = defaultdict(list)
        part = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        for i, row in enumerate(part):
            table[row.tobytes()].append(i)
        yield from (group for group in table.values() if len(group) > 1)


def with_datasketch(texts: list[str]) -> np.ndarray:
    """256 permutations by update_batch, its own optimal bands (25 x 10), components."""
    from datasketch import MinHash

    made = []
    for text in texts:
        sketch = MinHash(num_perm=256)
        sketch.update_batch(_shingles(text))
        made.append(sketch.hashvalues)
    return _union(len(texts), _by_band(np.array(made), 25, 10))


def with_rensa(texts: list[str]) -> np.ndarray:
    """R-MinHash, 256 permutations in 32 bands, candidates verified by estimate, components."""
    import rensa

    made = rensa.RMinHash.digests_from_token_sets([_shingles(t) for t in texts], 256, 42)
    signatures = np.array(made)
    groups = []
    for group in _by_band(signatures, 32, 8):
        first = signatures[group[0]]
        groups.append([group[0], *(g for g in group[1:] if (signatures[g] == first).mean() >= 0.7)])
    return _union(len(texts), groups)


def with_text_dedup(texts: list[str]) -> np.ndarray:
    """Its `embed_func` with the command's defaults (sha1, 256 permutations, 25 x 10), components."""
    from text_dedup import minhash

    prime = np.uint64((1 << 61) - 1)
    draw = minhash.RNG.randint
    settings = {
        "num_perm": 256,
        "ngram_size": 5,
        "min_length": 5,
        "hashranges": [(i * 10, (i + 1) * 10) for i in range(25)],
        "permutations": (draw(1, prime, 256, np.uint64), draw(0, prime, 256, np.uint64)),
        "hash_func": partial(minhash.sha1_hash, d=32),
        "dtype": np.uint64,
        "max_hash": np.uint32((1 << 32) - 1),
        "modulo_prime": prime,
    }
    tables: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(25)]
    for i, text in enumerate(texts):
        for table, key in zip(
            tables, minhash.embed_func(text, i, **settings)["__signatures__"], strict=True
        ):
            table[key].append(i)
    return _union(len(texts), (g for table in tables for g in table.values() if len(g) > 1))


def with_datatrove(texts: list[str], regex: bool) -> np.ndarray:
    """Its four stages in this process, default configuration (14 x 8).

    regex: words by a regular expression instead of the spaCy tokenizer that it ships with.
    """
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash as m

    config = m.MinhashConfig()
    documents = [Document(text=t, id=str(i)) for i, t in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        if regex:
            keep = m.load_word_tokenizer
            m.load_word_tokenizer = lambda language: _RegexWords()
        signatures = m.MinhashDedupSignature(f"{folder}/sigs", config=config)
        if regex:
            m.load_word_tokenizer = keep
        signatures.run(iter(documents), 0, 1)
        for bucket in range(config.num_buckets):
            m.MinhashDedupBuckets(f"{folder}/sigs", f"{folder}/buckets", config=config).run(
                None, bucket, config.num_buckets
            )
        m.MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config).run(
            None, 0, 1
        )
        kept = m.MinhashDedupFilter(f"{folder}/remove").run(iter(documents), 0, 1)
        out = np.zeros(len(texts), bool)
        out[[int(d.id) for d in kept]] = True
    return out


class _RegexWords:
    def word_tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text)
