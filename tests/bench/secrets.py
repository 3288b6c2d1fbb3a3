"""Secrets: speed, recall on planted ones, and false positives per MB of real code, beside detect-secrets.

    python -m tests.bench.secrets --corpus DIR_OR_PARQUET --limit 60M --out FILE.md

Installed code holds no live secrets, so that every finding of a secret kind in it (not e-mails, not
addresses) counts as false; published test keys (`KNOWN`) do not. Planted are random secrets of each
kind in code of several languages (tests/pipeline/kernels/planted.py). detect-secrets is run as its
command, all plugins at their defaults, on a sample of the same files where the command is found; a
line with findings counts once for it. Rates are per CPU second.
"""

import argparse
import json
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import redact
from pipeline.core.arrays import flat
from pipeline.core.files import edited
from tests.bench import corpus
from tests.pipeline.kernels.planted import KINDS, cases

PERSONAL = ("email", "ipv4", "ipv6", "licence_header")
KNOWN = ("BEGIN RSA PRIVATE KEY", "BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY")
"""What the test keys of TLS libraries start with: real keys, though nobody's."""
Case = tuple[str, str, str]
"""Suffix, text, secret."""
CFG = redact.Config()


def main() -> None:
    args = _arguments()
    table = corpus.load(args.corpus, args.limit)
    sample = corpus.load(args.corpus, args.rival_limit)
    planted = {kind: cases(kind, Random(kind), args.each) for kind in KINDS}
    told: dict[str, Any] = {
        "ours": _speed(table) | {"planted": _recall(planted, _ours)},
        "rivals": {},
        "corpus": corpus.described(table, args.corpus),
        "versions": corpus.versions("pyarrow", "numpy", "numba"),
    }
    told["ours"] |= _false(table, "whole") | _false(sample, "sample")
    if command := shutil.which(args.detect_secrets):
        told["rivals"]["detect-secrets"] = _rival(command, sample, planted)
    corpus.tell(told, _lines(told), args)


def _arguments() -> argparse.Namespace:
    made = corpus.parser(__doc__, "60M")
    made.add_argument("--rival-limit", type=corpus.size, default="3M", help="bytes that both get")
    made.add_argument("--each", type=int, default=5, help="secrets of each kind in each language")
    made.add_argument("--detect-secrets", default="detect-secrets", help="the command")
    return made.parse_args()


def _cpu(work: Callable[[], Any], who: int = resource.RUSAGE_SELF) -> float:
    """CPU seconds of this process, or of the children it waited for."""
    before = resource.getrusage(who)
    work()
    after = resource.getrusage(who)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _documents(texts: pa.ChunkedArray, table: pa.Table | None = None) -> pa.Table:
    n = len(texts)
    nothing = pa.nulls(n, pa.string())
    path, language = (table["path"], table["language"]) if table else (nothing, nothing)
    uids = pa.array([f"{i:032x}" for i in range(n)])
    return pa.table({"uid": uids, "text": texts, "path": path, "language": language})


def _speed(table: pa.Table) -> dict[str, float]:
    """Best of five, after one run that compiles: the box, and its compiled pass alone."""
    from pipeline.kernels import keywords, secrets

    documents = _documents(table["text"], table)
    began = time.monotonic()
    redact.redact(documents.slice(0, 1), CFG)
    first = time.monotonic() - began
    size = corpus.text_bytes(table) / 1e6
    data, offsets = flat(table["text"])
    scan = partial(keywords.hits, data, offsets, secrets.plan().table)
    return {
        "mb_per_s_core": round(
            size / min(_cpu(partial(redact.redact, documents, CFG)) for _ in range(5)), 1
        ),
        "scan_mb_per_s_core": round(size / min(_cpu(scan) for _ in range(5)), 1),
        "hits_per_mb": round(len(scan()[0]) / size, 1),
        "first_call_s": round(first, 2),
    }


def _false(table: pa.Table, name: str) -> dict[str, Any]:
    """Findings of secret kinds per MB, without the known test keys."""
    documents = _documents(table["text"], table)
    edits = redact.redact(documents, CFG)["edits"].to_pylist()
    rules: Counter[str] = Counter()
    for row, found in enumerate(edits):
        raw = table["text"][row].as_py().encode() if found else b""
        for edit in found:
            known = any(k in raw[edit["start"] : edit["start"] + 40].decode() for k in KNOWN)
            rules[edit["rule"]] += not known
    secret = {rule: n for rule, n in rules.items() if n and rule not in PERSONAL}
    size = corpus.text_bytes(table) / 1e6
    return {
        f"false_per_mb_{name}": round(sum(secret.values()) / size, 3),
        f"found_{name}": dict(rules),
        f"mb_{name}": round(size, 1),
    }


def _recall(
    planted: dict[str, list[Case]], gone: Callable[[list[Case]], list[bool]]
) -> dict[str, float]:
    """Share of the planted secrets that are found, by kind."""
    flat_cases = [(kind, case) for kind, found in planted.items() for case in found]
    hits = gone([case for _, case in flat_cases])
    right: Counter[str] = Counter()
    for (kind, _), hit in zip(flat_cases, hits, strict=True):
        right[kind] += hit
    return {kind: right[kind] / len(found) for kind, found in planted.items()}


def _ours(planted: list[Case]) -> list[bool]:
    """Whether no line of the secret is left."""
    column = pa.chunked_array([pa.array([text for _, text, _ in planted], pa.large_string())])
    after = edited(column, redact.redact(_documents(column), CFG)["edits"]).to_pylist()
    lines = [[line for line in s.split("\n") if line] for _, _, s in planted]
    return [not any(line in text for line in left) for text, left in zip(after, lines, strict=True)]


def _rival(command: str, sample: pa.Table, planted: dict[str, list[Case]]) -> dict[str, Any]:
    """detect-secrets: CPU time and lines found on the sample; planted texts with any finding."""
    size = corpus.text_bytes(sample) / 1e6
    names = [path.rpartition("/")[2] for path in sample["path"].to_pylist()]
    files = list(zip(names, sample["text"].to_pylist(), strict=True))
    found: list[dict[str, Any]] = []
    seconds = _cpu(lambda: found.append(_scan(command, files)), resource.RUSAGE_CHILDREN)
    lines = {(name, f["line_number"]) for name, rows in found[0].items() for f in rows}
    types = Counter(f["type"] for rows in found[0].values() for f in rows)

    def flagged(cases: list[Case]) -> list[bool]:
        hit = {name[:6] for name in _scan(command, [(c[0], c[1]) for c in cases])}
        return [f"{i:06}" in hit for i in range(len(cases))]

    return {
        "mb_per_s_core": round(size / seconds, 2),
        "false_per_mb_sample": round(len(lines) / size, 3),
        "found_sample": dict(types),
        "planted": _recall(planted, flagged),
        "version": subprocess.run(
            [command, "--version"], capture_output=True, text=True
        ).stdout.strip(),
    }


def _scan(command: str, files: list[tuple[str, str]]) -> dict[str, Any]:
    """The command's findings by file, (name, text); that of number i is `00000i` and its name."""
    with tempfile.TemporaryDirectory(prefix="secrets-") as folder:
        for i, (name, text) in enumerate(files):
            Path(folder, f"{i:06}{name}").write_text(text)
        scan = [command, "scan", "--all-files", "--no-verify", "."]
        told = subprocess.run(scan, capture_output=True, text=True, check=True, cwd=folder)
    return dict(json.loads(told.stdout)["results"])


def _lines(told: dict[str, Any]) -> list[str]:
    tools = {"ours": told["ours"], **told["rivals"]}
    kinds = told["ours"]["planted"]
    return [
        f"corpus {told['corpus']['files']:,} files, {told['corpus']['bytes'] / 1e6:.1f} MB: {told['corpus']['source']}",
        f"versions {told['versions']}",
        f"ours: compiled pass {told['ours']['scan_mb_per_s_core']} MB/s per core, "
        f"{told['ours']['hits_per_mb']} hits a MB; first call {told['ours']['first_call_s']} s; "
        f"{told['ours']['false_per_mb_whole']} false a MB on {told['ours']['mb_whole']} MB",
        "",
        f"| | MB/s per core | false a MB ({told['ours']['mb_sample']} MB sample) | recall, mean | kinds >= 98 % |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {t['mb_per_s_core']} | {t['false_per_mb_sample']} | "
            f"{np.mean(list(t['planted'].values())):.1%} | "
            f"{sum(v >= 0.98 for v in t['planted'].values())} of {len(kinds)} |"
            for name, t in tools.items()
        ),
        "",
        "| kind | " + " | ".join(tools) + " |",
        "|---|" + "---:|" * len(tools),
        *(
            f"| {kind} | " + " | ".join(f"{t['planted'][kind]:.1%}" for t in tools.values()) + " |"
            for kind in kinds
        ),
        "",
        *(f"{name} found in the sample: {t['found_sample']}" for name, t in tools.items()),
    ]


if __name__ == "__main__":
    main()
