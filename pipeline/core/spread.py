"""A sample of documents spread over their languages, drawn by uid: the same however they lie in shards.

Holds no more than the sample, however large the corpus is. Knows nothing of what samples are for.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.schema import digest

Show = Callable[[str], str]
"""What of a text is kept."""


def sample(
    files: Files, job: Job, most: int, seed: int, columns: Sequence[str], show: Show
) -> pa.Table:
    """At most `most` documents in the order of the draw: uid, `columns`, `language` (empty where it is
    unknown) and of the text what `show` gives."""
    there: Counter[str] = Counter()
    for table in job.collect(files, _languages, ["language"]):
        there.update(dict(zip(*(table[n].to_pylist() for n in ("language", "files")), strict=True)))
    quotas = spread(there, most)
    # Eight deviations above the share that gives the quota: the draw has enough of each language.
    below = {k: (q + 8 * q**0.5 + 8) / there[k] for k, q in quotas.items()}
    measure = partial(drawn, below=below, seed=seed, show=show)
    found = job.collect(files, measure, [*columns, "language", "text"])
    return first(pa.concat_tables(found), quotas)


def _languages(table: pa.Table) -> pa.Table:
    counts = Counter(name or "" for name in table["language"].to_pylist())
    return pa.table(
        {"language": pa.array(counts, pa.string()), "files": pa.array(counts.values(), pa.int64())}
    )


def spread(there: Mapping[str, int], files: int) -> dict[str, int]:
    """How many of each language: equally many, and all of a language that has fewer than that."""
    out, left = {}, files
    for number, name in enumerate(sorted(there, key=lambda k: (there[k], k))):
        out[name] = min(there[name], left // (len(there) - number))
        left -= out[name]
    return out


def drawn(table: pa.Table, below: Mapping[str, float], seed: int, show: Show) -> pa.Table:
    """The rows whose place in the draw (0..1) is below their language's share, what is shown of them."""
    table = placed(table, seed)
    places = zip(table["draw"].to_pylist(), table["language"].to_pylist(), strict=True)
    near = [int(draw[:13], 16) / 16**13 < below[language] for draw, language in places]
    kept = table.filter(pa.array(near, pa.bool_()))
    shown = pa.array([show(t) for t in kept["text"].to_pylist()], pa.large_string())
    return kept.drop_columns(["text"]).append_column("text", shown)


def placed(table: pa.Table, seed: int) -> pa.Table:
    """The rows with their place in the draw: `draw`, a hash of seed and uid; a null `language` is ""."""
    draws = pa.array([digest(str(seed), u) for u in table["uid"].to_pylist()], pa.string())
    names = pa.array([name or "" for name in table["language"].to_pylist()], pa.string())
    rest = table.select([n for n in table.column_names if n not in ("row", "language")])
    return rest.append_column("language", names).append_column("draw", draws)


def first(table: pa.Table, quotas: Mapping[str, int]) -> pa.Table:
    """The first rows of the draw, as many of each language as its quota, in the draw's order."""
    table = table.take(pc.sort_indices(table["draw"]))
    left, kept = dict(quotas), []
    for number, language in enumerate(table["language"].to_pylist()):
        if left[language] > 0:
            left[language] -= 1
            kept.append(number)
    return table.take(pa.array(kept, pa.int64())).drop_columns(["draw"])
