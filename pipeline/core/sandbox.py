"""Runs generated Python against its tests where it can do no harm and cannot cheat. Ours.

Each program gets its own sandbox of two processes (`inside`): the candidate holds the generated
program and answers calls, the tester holds the test and calls. Only values of exactly the built-in
types cross, so that exiting early, printing, replacing `assert` or answering objects equal to
everything all fail; the verdict leaves by a pipe that the candidate never has. Both have limits on
processor time and memory, no file to write, no other file to read than Python's own, and a list of
permitted system calls without sockets, processes, threads or signals.

Tiers: `bubblewrap` adds namespaces (no other process, file or network is even visible);
`landlock` does without them where the kernel refuses. As root both become uid 65534 first.

Not covered: faults of the kernel itself; in `landlock` the names, sizes and dates of other files
can still be seen (`stat`), and programs that run at once share a uid. The test is trusted not to
lie but runs confined too. Arguments go by value: a test cannot pass functions or objects of its
own, nor see its arguments changed in place; a helper of the program that a test calls is trusted
to be the one of the prompt.
"""

import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pipeline.core.errors import StageError

NOBODY = 65534
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
Name = Literal["bubblewrap", "landlock", "none"]


@dataclass(frozen=True)
class Tier:
    """The kind of sandbox this machine gives, and why no better one."""

    name: Name
    reason: str


@dataclass(frozen=True)
class Program:
    """A program in HumanEval's form: `test` defines `check(candidate)`."""

    source: str
    test: str
    entry_point: str


@dataclass(frozen=True)
class Verdict:
    """`pass` only if every check held; `error` if the sandbox itself broke, never the program."""

    status: Literal["pass", "fail", "timeout", "memory", "error"]
    detail: str = ""


def run(
    programs: Sequence[Program],
    *,
    seconds: float = 5,
    memory: int = 512 << 20,
    workers: int | None = None,
    using: Tier | None = None,
) -> list[Verdict]:
    """One verdict a program, in order.

    `seconds` of processor time (whole seconds, rounded up) and `memory` bytes of address space
    hold for each of a program's two processes; processor time, because verdicts by the clock
    depend on what else the machine does. The clock only ends sleepers, at 4 x `seconds` + 5.
    `workers` is how many run at once (default: one a core). StageError where there is no sandbox.
    """
    chosen = using or tier()
    if chosen.name == "none":
        raise StageError(f"generated code is not run without a sandbox: {chosen.reason}")
    argv = command(chosen.name, max(1, math.ceil(seconds)), memory)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(pool.map(lambda p: judge(argv, p, 4 * seconds + 5), programs))


@cache
def tier() -> Tier:
    """The best tier that works here, found by running programs in it, once a process."""
    reasons: list[str] = []
    for name in ("bubblewrap", "landlock"):
        problem = probe(name)
        if not problem:
            return Tier(name, "; ".join(reasons) or f"{name} works")
        reasons.append(f"{name}: {problem}")
    advice = "install bubblewrap (apt-get install bubblewrap) or use Linux 5.13+ with Landlock"
    return Tier("none", f"{'; '.join(reasons)}; {advice}")


PROBE = """
def open_ends(path):
    import os, socket
    found = []
    for name, act in {"file": lambda: open(path), "fork": os.fork, "net": socket.socket}.items():
        try:
            act()
        except OSError:
            continue
        found.append(name)
    return found
"""


@cache
def probe(name: Literal["bubblewrap", "landlock"]) -> str:
    """Why tier `name` does not work on this machine; empty if it does."""
    if sys.platform != "linux":
        return f"needs Linux, this is {sys.platform}"
    if name == "bubblewrap" and not shutil.which("bwrap"):
        return "bwrap is not installed"
    if not interpreter():
        return f"uid {NOBODY} may run neither {sys.executable} nor /usr/bin/python3"
    test = (
        "def check(candidate):\n    assert candidate('/etc/passwd') == [], candidate('/etc/passwd')"
    )
    try:
        verdict = judge(command(name, 5, 512 << 20), Program(PROBE, test, "open_ends"), 25)
    except OSError as e:  # root that may not change its uid
        return str(e)
    return "" if verdict.status == "pass" else f"{verdict.status} {verdict.detail}"


@cache
def interpreter() -> str:
    """The Python that runs inside: ours if the uid inside may start it, else the system's."""
    ours = os.path.realpath(sys.executable)
    if os.geteuid() != 0:
        return ours
    return next((p for p in (ours, os.path.realpath("/usr/bin/python3")) if open_to_all(p)), "")


def open_to_all(path: str) -> bool:
    """Whether any user may execute the file `path`."""
    file = Path(path)
    if not file.is_file() or file.stat().st_mode & 0o005 != 0o005:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in file.parents)


def command(name: Name, seconds: int, memory: int) -> list[str]:
    """The command line that reads one program on stdin and writes its verdict to stdout."""
    python = interpreter()
    prefix = str(Path(python).parent.parent)
    libraries = [*LIBRARIES, f"{prefix}/lib", f"{prefix}/lib64"]
    settings = {"seconds": seconds, "memory": memory, "read": libraries}
    inside = json.dumps({**settings, "landlock": name == "landlock"})
    text = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
    argv = [python, "-S", "-s", "-B", "-X", "utf8", "-c", text, inside]
    return argv if name == "landlock" else [*walls(python, libraries), *argv]


def walls(python: str, libraries: Sequence[str]) -> list[str]:
    """bwrap with every namespace, no capability, and a file system of Python alone."""
    shown = [arg for p in (python, *libraries) for arg in ("--ro-bind-try", p, p)]
    flags = "--unshare-all --die-with-parent --cap-drop ALL --dev /dev --remount-ro / --chdir /"
    return [shutil.which("bwrap") or "bwrap", *shown, *flags.split(), "--"]


def judge(argv: Sequence[str], program: Program, wall: float) -> Verdict:
    """Run one program in a session of its own; nothing of it is left when this returns."""
    rights = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"},
        start_new_session=True,
        **rights,  # type: ignore[call-overload]
    ) as process:
        try:
            out, err = process.communicate(json.dumps(vars(program)).encode(), timeout=wall)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Verdict("timeout", f"more than {wall:g} s by the clock")
    try:
        return Verdict(*json.loads(out))
    except ValueError:
        return Verdict("error", err.decode(errors="replace").strip()[-500:] or "no verdict")
