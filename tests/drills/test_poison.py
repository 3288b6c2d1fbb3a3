"""The poison folder in full size through the curation steps: it ends, in bounded memory, accounted for.

A 1 GB line, bombs of 2 and 10 GB, 100,000 tiny files and as many near copies of one file, in a
process of its own whose peak is measured. ICEFLOE_DRILL_POISON=small takes the tests' sizes.
`tests/bench/RESULTS/poison.md` holds the result.
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from tests import poison
from tests.running import recipe_file

RESULTS = Path(__file__).parents[1] / "bench/RESULTS/poison.md"
SMALL = os.environ.get("ICEFLOE_DRILL_POISON") == "small"
MOST = 4_000_000_000
"""Bytes of memory at the peak: four shards in several forms, numba and arrow (ours)."""
CHILD = """
import json, resource, sys, time
from pathlib import Path
from tests.running import run
out = {}
for step in ("raw", "private", "clean", "unique"):
    began = time.monotonic()
    made = run(sys.argv[1], Path(sys.argv[2]), until=step)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out[step] = {"rows": made[step]["rows"], "seconds": time.monotonic() - began, "peak": peak}
print(json.dumps(out))
"""


def test_the_poison_folder_is_read_in_bounded_memory(tmp_path: Path) -> None:
    sizes = poison.SMALL if SMALL else poison.FULL
    raw = {"use": "ingest", "source": poison.sources(tmp_path / "in", sizes)}
    steps = {
        "raw": raw | {"max_bytes": poison.LIMIT, "on": {"max_quarantine": 1}},
        "private": {"use": "redact", "files": "raw"},
        "clean": {"use": "filter", "files": "private"},
        "unique": {"use": "dedup", "files": "clean"},
    }
    recipe = recipe_file(tmp_path / "poison.yaml", steps)
    began = time.monotonic()
    command = [sys.executable, "-c", CHILD, recipe, str(tmp_path / "store")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    if not SMALL:
        _write(told, sizes, time.monotonic() - began)
    rows = told["raw"]["rows"]
    wanted = poison.accounted(sizes)
    found = {"kept": rows["kept"], "quarantine": rows["quarantined"]} | rows["dropped"]
    assert found == wanted
    for step in told.values():
        counts = step["rows"]
        left = sum(counts["dropped"].values()) + counts["quarantined"]
        assert counts["in"] == counts["kept"] + left
        assert step["peak"] < MOST
    assert told["clean"]["rows"]["in"] == rows["kept"]
    assert told["unique"]["rows"]["kept"] >= 1


def _write(told: dict, sizes: poison.Sizes, seconds: float) -> None:
    """The table of what each step counted, how long it took and its process's peak so far."""
    head = (
        f"# The poison folder, full size\n\n`make drills` (tests/drills/test_poison.py), one process, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}: {seconds:.0f} s in all.\n"
        f"Sizes: {sizes}\n\n| step | in | kept | dropped | quarantined | s | peak MB |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    lines = [
        f"| {name} | {r['in']:,} | {r['kept']:,} | {_words(r['dropped'])} | {r['quarantined']:,} | "
        f"{step['seconds']:.0f} | {step['peak'] / 1e6:.0f} |\n"
        for name, step in told.items()
        for r in [step["rows"]]
    ]
    RESULTS.write_text(head + "".join(lines))


def _words(dropped: dict[str, int]) -> str:
    return ", ".join(f"{rule} {n:,}" for rule, n in dropped.items()) or "0"
