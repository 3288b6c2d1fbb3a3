"""Runs: made once, explained, resumed at shard grain, accounted for; documents are written once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.verify import problems
from pipeline.core import recipe as recipes
from pipeline.core import runner
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import verdicts
from pipeline.core.job import QUARANTINE, quarantined
from pipeline.core.runner import Artifact
from pipeline.core.store import Store
from tests.corpus import repositories, write
from tests.running import curation, recipe_file, run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repositories(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A curation run over generated repositories: (recipe file, store)."""
    folder = tmp_path_factory.mktemp("made")
    name = recipe_file(folder / "small.yaml", curation(source))
    run(name, folder / "store")
    return name, folder / "store"


def digests(manifests: dict) -> dict[str, str]:
    return {name: m["digest"] for name, m in manifests.items()}


def test_every_ledger_adds_up_and_is_recounted_from_the_files(made: tuple[str, Path]) -> None:
    manifests = run(*made)
    for name, m in manifests.items():
        if m["rows"]:
            rows = m["rows"]
            assert (
                rows["in"] == rows["kept"] + sum(rows["dropped"].values()) + rows["quarantined"]
            ), name
    assert manifests["unique"]["rows"]["dropped"].keys() == {"exact", "near"}
    found, checked = problems(Store(str(made[1])), "small")
    assert found == []
    ledgers = [m["rows"]["in"] for m in manifests.values() if m["rows"]]
    assert (checked["steps"], checked["rows"]) == (7, sum(ledgers))


def test_verify_names_the_row_that_disagrees(source: Path, tmp_path: Path) -> None:
    name = recipe_file(tmp_path / "small.yaml", curation(source))
    manifests = run(name, tmp_path / "store", until="clean")
    record = manifests["clean"]["layers"][1]["shards"][0]
    path = tmp_path / "store" / record["file"]
    table = pq.read_table(path)
    keep = table["keep"].to_pylist()
    at = keep.index(True)
    keep[at] = False
    path.unlink()
    pq.write_table(table.set_column(1, "keep", pa.array(keep)), path)
    found, _ = problems(Store(str(tmp_path / "store")), "small")
    assert found == [f"clean: {record['file']}: its content has changed"]
    manifest = tmp_path / "store/filter" / manifests["clean"]["key"] / "manifest.json"
    told = json.loads(manifest.read_text())
    told["layers"][1]["shards"][0]["sha256"] = (
        __import__("hashlib").sha256(path.read_bytes()).hexdigest()
    )
    manifest.write_text(json.dumps(told))
    found, _ = problems(Store(str(tmp_path / "store")), "small")
    assert f"row {at} of {path.name}" in found[0]


def test_verify_sees_settings_that_are_not_the_keys(source: Path, tmp_path: Path) -> None:
    name = recipe_file(tmp_path / "small.yaml", curation(source))
    manifests = run(name, tmp_path / "store", until="raw")
    path = tmp_path / "store/ingest" / manifests["raw"]["key"] / "manifest.json"
    path.write_text(path.read_text().replace('"max_bytes": 8000000', '"max_bytes": 9000000'))
    found, _ = problems(Store(str(tmp_path / "store")), "small")
    assert found == ["raw: the manifest's settings and inputs are not those of its key"]


def test_verify_sees_a_file_of_nobody_and_a_digest_of_other_files(
    source: Path, tmp_path: Path
) -> None:
    name = recipe_file(tmp_path / "small.yaml", curation(source))
    manifests = run(name, tmp_path / "store", until="raw")
    folder = tmp_path / "store/ingest" / manifests["raw"]["key"]
    (folder / "left.txt").write_text("?")
    found, _ = problems(Store(str(tmp_path / "store")), "small")
    assert found == [f"raw: ingest/{folder.name}/left.txt: is not in the manifest"]
    (folder / "left.txt").unlink()
    told = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(told | {"digest": "0" * 32}))
    found, _ = problems(Store(str(tmp_path / "store")), "small")
    assert found == ["raw: the manifest's digest is not that of its files"]


def test_a_second_run_makes_nothing(made: tuple[str, Path]) -> None:
    assert not any(m["made_now"] for m in run(*made).values())


def test_text_is_written_once_and_layers_are_small(made: tuple[str, Path], source: Path) -> None:
    size = sum(p.stat().st_size for p in source.rglob("*.py"))
    layers = 0
    for path in made[1].rglob("*.parquet"):
        if path.relative_to(made[1]).parts[0] not in ("ingest", "synthesise", "tokenize"):
            assert "text" not in pq.read_schema(path).names, path
            layers += path.stat().st_size
    # Fixed costs of a Parquet file dominate here (16 kB repositories); the demo's corpus is held
    # to 15 % in tests/drills/test_demo.py.
    assert layers < 3 * size


def test_the_plan_says_which_key_changed(made: tuple[str, Path]) -> None:
    planned = runner.plan(recipes.load(made[0], (), ["unique.threshold=0.8"]), Store(str(made[1])))
    why = {p.step.name: p.why for p in planned}
    assert why["clean"] == ""
    assert why["unique"] == "threshold 0.7 -> 0.8"
    assert why["clear"].startswith("files ")


def test_a_pin_turns_a_changed_key_into_an_error(made: tuple[str, Path], source: Path) -> None:
    steps = curation(source)
    key = run(*made)["unique"]["key"]
    pinned = steps | {"unique": steps["unique"] | {"pin": key}}
    name = recipe_file(made[1].parent / "pinned" / "small.yaml", pinned)
    runner.plan(recipes.load(name), Store(str(made[1])))
    with pytest.raises(RecipeError, match=rf"pinned to {key}; .*threshold 0\.7 -> 0\.8"):
        runner.plan(recipes.load(name, (), ["unique.threshold=0.8"]), Store(str(made[1])))


def test_the_order_of_sources_does_not_matter(tmp_path: Path) -> None:
    one, two = repositories(tmp_path / "one", 3), repositories(tmp_path / "two", 3, prefix="other")
    forth = recipe_file(tmp_path / "a/small.yaml", curation([str(one), str(two)]))
    back = recipe_file(tmp_path / "b/small.yaml", curation([str(two), str(one)]))
    assert digests(run(forth, tmp_path / "s1")) == digests(run(back, tmp_path / "s2"))


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_do_not_change_a_byte(
    made: tuple[str, Path], tmp_path: Path, workers: int, ray_local: None
) -> None:
    assert digests(run(made[0], tmp_path / "store", workers=workers)) == digests(run(*made))


def test_one_more_repository_remakes_only_what_depends_on_it(tmp_path: Path) -> None:
    """Repositories share shards; another one joins or cuts one of them, and the others are kept."""
    source = repositories(tmp_path / "source", 12)
    name = recipe_file(tmp_path / "small.yaml", curation(source))
    small = "raw.shard_bytes=60k"
    first = run(name, tmp_path / "store", small, until="clean")
    shards = len(first["raw"]["base"])
    assert shards >= 4
    repositories(source, 1, seed=7, prefix="extra")
    again = run(name, tmp_path / "store", small, until="clean")
    assert again["raw"]["kept_shards"] >= shards - 1
    assert again["private"]["kept_shards"] == again["raw"]["kept_shards"]
    assert again["clean"]["kept_shards"] == 2 * again["raw"]["kept_shards"]
    fresh = run(name, tmp_path / "fresh", small, until="clean")
    assert digests(again) == digests(fresh)


@pytest.mark.parametrize("after", [0.3, 0.8, 1.3])
def test_kill_9_then_run_again_equals_an_undisturbed_run(
    made: tuple[str, Path], tmp_path: Path, after: float
) -> None:
    code = f"from tests.running import run; from pathlib import Path; print(1, flush=True); run({made[0]!r}, Path({str(tmp_path / 'store')!r}))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(after)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert digests(run(made[0], tmp_path / "store")) == digests(run(*made))
    assert problems(Store(str(tmp_path / "store")), "small")[0] == []


def fragile(table: pa.Table) -> pa.Table:
    return verdicts(table["uid"], [None if int(u) else "zero" for u in table["uid"].to_pylist()])


def test_a_row_that_fails_is_quarantined_with_its_error_and_the_rest_is_judged() -> None:
    found = quarantined(fragile, pa.table({"uid": ["1", "x", "0"]}))
    assert found["rule"].to_pylist() == [None, QUARANTINE, "zero"]
    assert "invalid literal" in found["evidence"].to_pylist()[1]


def test_too_much_quarantine_stops_the_step_and_commits_nothing(tmp_path: Path) -> None:
    write(
        tmp_path / "source/a",
        {f"f{i}.py": b"x = '\xff'\n" for i in range(3)} | {"good.py": "x = 1\n"},
    )
    name = recipe_file(
        tmp_path / "small.yaml", {"raw": {"use": "ingest", "source": str(tmp_path / "source")}}
    )
    with pytest.raises(
        StageError,
        match=r"3 of 4 rows failed, above max_quarantine 1\.0%; first: f0\.py: invalid UTF-8",
    ):
        run(name, tmp_path / "store")
    assert not list((tmp_path / "store").rglob("manifest.json"))
    allowed = run(name, tmp_path / "store", "raw.on.max_quarantine=0.8")
    assert allowed["raw"]["rows"] == {"in": 4, "kept": 1, "dropped": {}, "quarantined": 3}


def test_held_out_repositories_never_reach_the_batches(made: tuple[str, Path]) -> None:
    manifests = run(*made)
    store = Store(str(made[1]))
    corpus = Artifact(store, "holdout", manifests["corpus"]["key"]).files
    held = {u for s in corpus.shards for u in corpus.read(s, [], "heldout")["uid"].to_pylist()}
    index = pq.read_table(
        Artifact(store, "pack", manifests["batches1"]["key"]).folder / "index.parquet"
    )
    assert held
    assert not held & set(index["uid"].to_pylist())


def doomed(table: pa.Table) -> pa.Table:
    if len(table):
        raise ValueError("no")
    return verdicts(table["uid"], [], lines=pa.array([], pa.float32()))


def test_where_every_row_fails_the_boxs_columns_are_there_all_the_same() -> None:
    found = quarantined(doomed, pa.table({"uid": ["a", "b"]}))
    assert found["rule"].to_pylist() == [QUARANTINE] * 2
    assert found["lines"].to_pylist() == [None, None]


def test_a_lost_layer_is_made_again_and_older_settings_are_not_shown(
    source: Path, tmp_path: Path
) -> None:
    from cluster import runs

    name = recipe_file(tmp_path / "small.yaml", curation(source))
    first = run(name, tmp_path / "store", until="unique")
    run(name, tmp_path / "store", "clean.limits.max_line=900", until="clean")
    listed = [e["step"] for e in runs.steps(Store(str(tmp_path / "store")), "small")]
    assert listed == ["raw", "private", "clean"]
    record = first["private"]["layers"][0]["shards"][0]
    (tmp_path / "store" / record["file"]).unlink()
    (tmp_path / "store/redact" / first["private"]["key"] / "manifest.json").unlink()
    assert digests(run(name, tmp_path / "store", until="unique")) == digests(first)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_file_that_is_gone_or_damaged_is_made_again_as_the_error_says(
    source: Path, tmp_path: Path, how: str
) -> None:
    name, store = recipe_file(tmp_path / "small.yaml", curation(source)), tmp_path / "store"
    first = run(name, store, until="private")
    file = store / first["raw"]["base"][0]["file"]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    if how == "missing":
        file.unlink()
    with pytest.raises(StageError, match=rf"{file.name} is {how}.*delete it and those"):
        run(name, store, "clean.rules=none", until="clean")
    assert problems(Store(str(store)), "small")[0][0].startswith("raw: ")
    file.unlink(missing_ok=True)
    shutil.rmtree(store / "ingest" / first["raw"]["key"])
    assert digests(run(name, store, until="private")) == digests(first)
    assert file.read_bytes() == data
