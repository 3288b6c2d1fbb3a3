"""Ray is set up once, behind a token that never touches the disk; what the user set stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import start
from cluster.start import LOCAL, ROOT, _join, connect, describe, setup_env
from pipeline.core.errors import StageError


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty environment and home folder, in a process that has not imported Ray."""
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    monkeypatch.setattr(start, "TOKEN_FILE", tmp_path / "auth_token")
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k != "ray"})
    return tmp_path


def test_a_local_cluster_is_tuned_private_and_finds_the_code(home: Path) -> None:
    setup_env()
    assert LOCAL.items() <= os.environ.items()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["PYTHONPATH"] == str(ROOT)
    before = dict(os.environ)
    setup_env()
    assert os.environ == before
    assert list(home.iterdir()) == []


def test_what_the_user_has_set_stays(home: Path) -> None:
    theirs = {"RAY_worker_niceness": "10", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": "/theirs"}
    os.environ.update(theirs)
    setup_env()
    assert theirs.items() - os.environ.items() == {("PYTHONPATH", "/theirs")}
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/theirs"]


@pytest.mark.parametrize("given", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "file"])
def test_a_token_of_the_users_is_used_for_any_cluster(home: Path, given: str) -> None:
    if given == "file":
        (home / "auth_token").write_text("theirs")
    else:
        os.environ[given] = "theirs"
    before = set(os.environ)
    setup_env(local=False)
    assert set(os.environ) - before == {"RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"}


def test_another_cluster_is_left_as_it_is(home: Path) -> None:
    before = set(os.environ)
    setup_env(local=False)
    assert set(os.environ) - before == {"RAY_USAGE_STATS_ENABLED"}


def test_a_cluster_that_is_not_there_is_told() -> None:
    with pytest.raises(StageError, match=r"127\.0\.0\.1:9.*refused"):
        _join("127.0.0.1:9")


def test_this_machine_is_described() -> None:
    facts = describe()
    assert facts["cores"] >= 1
    assert facts["memory"] > 1 << 30
    assert isinstance(facts["gpus"], list)
    assert facts["ray"].split(".")[0] == "2"


@pytest.mark.ray
@pytest.mark.slow
def test_workers_have_the_token_the_code_and_the_settings(ray_local: None) -> None:
    import ray
    from ray.data import DataContext

    connect()  # a second call joins the first

    @ray.remote(num_cpus=0.1)
    def look() -> tuple[str, int, str]:
        import pipeline.core.schema

        return os.environ["RAY_AUTH_TOKEN"], os.nice(0), str(pipeline.core.schema.__file__)

    token, niceness, code = ray.get(look.remote())
    assert (token, niceness) == (os.environ["RAY_AUTH_TOKEN"], 0)
    assert Path(code).is_relative_to(ROOT)
    assert DataContext.get_current().execution_options.preserve_order
    assert describe()["cores"] == 2


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_of_ours_ends_while_nobody_needs_it() -> None:
    """In a process of its own: the others here share theirs. The next that needs one gets it."""
    code = """
import time, ray
from cluster.start import connect, rested
connect(num_cpus=1)
with rested(60):
    pass
assert ray.is_initialized()
with rested(0.2):
    while ray.is_initialized():
        time.sleep(0.1)
ray.init("local", num_cpus=1, include_dashboard=False, logging_level="ERROR")  # not ours to end
with rested(0.1):
    time.sleep(1)
assert ray.is_initialized()
ray.shutdown()
connect(num_cpus=1)
print(ray.get(ray.remote(lambda: "again").remote()))
"""
    assert said(code) == "again\n"


@pytest.mark.ray
@pytest.mark.slow
def test_an_idle_cluster_of_ours_keeps_no_workers_and_reads_no_logs() -> None:
    code = """
import os, time, ray
from contextlib import suppress
from pathlib import Path
from cluster.start import connect
from tests.bench.ray_train import descendants

def running(name):
    with suppress(OSError):  # one that ended meanwhile
        return any(name in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(os.getpid()))
    return True

connect(num_cpus=1)
ray.get(ray.remote(lambda: None).remote())
assert running(b"ray::IDLE") and not running(b"log_monitor")
while running(b"ray::IDLE"):
    time.sleep(0.2)
assert running(b"raylet")
"""
    said(code, 60, RAY_idle_worker_killing_time_threshold_ms="500")


def said(code: str, seconds: float | None = None, **env: str) -> str:
    """What a Python of its own prints, which has so many seconds."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        check=False,
        timeout=seconds,
    )
    assert not done.returncode, done.stderr
    return done.stdout
