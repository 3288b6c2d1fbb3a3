"""What each curation box makes of the generated repositories, as one digest per (box, VERSION).

`python -m tests.golden` rewrites golden.json, after a VERSION was raised.
"""

import json
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.core.recipe import box
from tests.corpus import repositories
from tests.running import curation, recipe_file, run

RECORDED = Path(__file__).parent / "golden.json"


def digests(folder: Path) -> dict[str, str]:
    """`box@VERSION` -> digest of its rows (not of Parquet's bytes, which change with its library)."""
    repositories(folder / "source", 5)
    manifests = run(
        recipe_file(folder / "golden.yaml", curation(folder / "source")), folder / "store"
    )
    return {
        f"{m['stage']}@{box(m['stage']).VERSION}": _digest(folder / "store", m)
        for m in manifests.values()
    }


def _digest(store: Path, manifest: dict[str, Any]) -> str:
    h = sha256()
    records = (manifest["base"] or []) + [
        r for layer in manifest["layers"] for r in layer["shards"]
    ]
    for record in records:
        for name in ("file", "ledger"):
            if name in record:
                h.update(_rows(store / record[name]))
        if "sidecar" in record:
            h.update((store / record["sidecar"]).read_bytes())
    for name in manifest["files"]:
        path = store / manifest["stage"] / manifest["key"] / name
        h.update(_rows(path) if path.suffix == ".parquet" else path.read_bytes())
    return h.hexdigest()[:24]


def _rows(path: Path) -> bytes:
    return json.dumps(pq.read_table(path).to_pylist(), sort_keys=True).encode()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        RECORDED.write_text(json.dumps(digests(Path(folder)), indent=1) + "\n")
