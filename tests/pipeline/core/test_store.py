"""The store: exclusive creation, locks, full disks, flipped bits."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.errors import Busy, RecipeError, StageError
from pipeline.core.store import Store, parquet_bytes, read_parquet


def test_the_second_creator_loses_quietly(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.create(b"first", "a", "x")
    assert not store.create(b"second", "a", "x")
    assert store.read("a", "x") == b"first"
    assert store.list("a") == ["x"]


def test_a_held_store_is_busy_and_free_after_kill_9(tmp_path: Path) -> None:
    code = f"from pipeline.core.store import Store\nimport time\nwith Store({str(tmp_path)!r}).lock():\n print(1, flush=True)\n time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"1\n"
    with pytest.raises(Busy, match=f"in use by process {child.pid}"), Store(str(tmp_path)).lock():
        pass
    child.kill()
    child.wait()
    with Store(str(tmp_path)).lock():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_a_clear_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=False
    ).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        with pytest.raises(StageError, match="free some space and run the same command again"):
            Store(str(small)).create(os.urandom(200_000), "a", "x")
        assert Store(str(small)).list("a") == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StageError, match="choose another --store"):
        Store(str(tmp_path / "file")).create(b"x", "a", "x")
    for place in (str(tmp_path / "file"), "/proc/nowhere"):
        with pytest.raises(StageError, match="choose another --store"), Store(place).lock():
            pass
    with pytest.raises(RecipeError, match="name a folder"):
        Store("")


def test_a_flipped_bit_in_parquet_is_never_other_data(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(1000)), "b": [str(i) for i in range(1000)]})
    data = parquet_bytes(table)
    for at in range(8, len(data) - 8, max(1, len(data) // 60)):
        broken = bytearray(data)
        broken[at] ^= 1
        (tmp_path / "x.parquet").write_bytes(broken)
        try:
            assert read_parquet(tmp_path / "x.parquet").equals(table)
        except StageError as e:
            assert "x.parquet is damaged" in str(e)  # noqa: PT017
