"""Hostile programs end and fail, right programs pass, in every sandbox this machine has."""

import os
import socket
import time
from pathlib import Path

import pytest

from pipeline.core import sandbox
from pipeline.core.errors import StageError
from pipeline.core.sandbox import Program, Tier, Verdict, run

TEST = """
def check(candidate):
    "moonlight"
    for n in range(3):
        assert candidate(n) == n + 1
"""
RIGHT = "def f(n):\n    return n + 1\n"

# Each would return the right answer if what it tries were allowed.
ATTACKS = {
    "fork bomb": "import os\ndef f(n):\n    while n < 9: os.fork()\n",
    "fork": "import os\ndef f(n):\n    os.fork()\n    return n + 1\n",
    "thread": """
import threading
def f(n):
    threading.Thread(target=print).start()
    return n + 1
""",
    "command": """
import subprocess
def f(n):
    return int(subprocess.check_output('echo 1', shell=True)) + n
""",
    "exec": "import os\ndef f(n):\n    os.execv('/bin/true', ['true'])\n",
    "read": "def f(n):\n    open('/etc/shadow').close()\n    return n + 1\n",
    "read passwd": "def f(n):\n    open('/etc/passwd').close()\n    return n + 1\n",
    "read mem": "import os\ndef f(n):\n    open(f'/proc/{os.getppid()}/mem')\n    return n + 1\n",
    "read environment": "def f(n):\n    open('/proc/self/environ')\n    return n + 1\n",
    "list root": "import os\ndef f(n):\n    return n + (len(os.listdir('/root')) >= 0)\n",
    "write": "def f(n):\n    open('/tmp/icefloe-was-here', 'w').write('x')\n    return n + 1\n",
    "write libraries": "import os\ndef f(n):\n    open(os.__file__, 'a')\n    return n + 1\n",
    "link": "import os\ndef f(n):\n    os.symlink('/etc', '/tmp/icefloe-link')\n    return n + 1\n",
    "kill parent": "import os\ndef f(n):\n    os.kill(os.getppid(), 9)\n    return n + 1\n",
    "kill all": "import os\ndef f(n):\n    os.kill(-1, 9)\n    return n + 1\n",
    "leave session": "import os\ndef f(n):\n    os.setsid()\n    return n + 1\n",
    "raise limits": """
import resource
def f(n):
    resource.setrlimit(resource.RLIMIT_CPU, (99, 99))
    return n + 1
""",
    "trace": """
import ctypes, os
def f(n):
    assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0
    return n + 1
""",
    "exit": "import sys\ndef f(n):\n    sys.exit(0)\n",
    "exit at once": "import sys\nsys.exit(0)\n",
    "hard exit": "import os\ndef f(n):\n    os._exit(0)\n",
    "hard exit at once": "import os\nos._exit(0)\n",
    "crash": "import ctypes\ndef f(n):\n    ctypes.string_at(0)\n",
    "always equal": """
class Same:
    def __eq__(self, other): return True
def f(n):
    return Same()
""",
    "equal number": """
class Same(int):
    def __eq__(self, other): return True
def f(n):
    return Same()
""",
    "print the mark": 'print(\'["pass", ""]\')\ndef f(n):\n    print(\'["pass", ""]\')\n',
    "write to every descriptor": """
import os
def f(n):
    for fd in range(64):
        try:
            os.write(fd, b'["pass", ""]')
        except OSError:
            pass
    os._exit(0)
""",
    "flood": "def f(n):\n    while True: print('x' * 10**6)\n",
    "huge answer": "def f(n):\n    return 'x' * 10**8\n",
    "builtins": """
import builtins
class Fine(BaseException):
    def __new__(cls, *args): raise SystemExit(0)
builtins.AssertionError = Fine
builtins.range = builtins.len = lambda *args: []
def range(*args): return []
def f(n):
    return 0
""",
    "define check": "def check(candidate): pass\ndef f(n): return 0\n",
    "look for the test": """
import gc, sys
def f(n):
    texts, frame = [str(o) for o in gc.get_objects()], sys._getframe()
    while frame:
        texts.append(str(frame.f_globals) + str(frame.f_locals))
        frame = frame.f_back
    assert any("".join(reversed("thgilnoom")) in text for text in texts)
    return n + 1
""",
    "unknown": "def f(n):\n    return undefined\n",
    "no program": "def f(n:\n",
    "other name": "def g(n):\n    return n + 1\n",
}
TIERS = ("bubblewrap", "landlock")


@pytest.fixture(scope="module", params=TIERS)
def using(request: pytest.FixtureRequest) -> Tier:
    problem = sandbox.probe(request.param)
    if problem:
        pytest.skip(f"no {request.param} here: {problem}")
    return Tier(request.param, "")


def one(source: str, using: Tier, test: str = TEST, memory: int = 512 << 20) -> Verdict:
    return run([Program(source, test, "f")], seconds=1, memory=memory, using=using)[0]


def test_right_programs_pass_in_order(using: Tier) -> None:
    programs = [Program(RIGHT if i % 3 else "def f(n): pass", TEST, "f") for i in range(20)]
    found = run(programs, seconds=1, workers=4, using=using)
    assert [v.status for v in found] == ["pass" if i % 3 else "fail" for i in range(20)]


def test_every_attack_fails_and_leaves_nothing(using: Tier) -> None:
    memory = (512 << 20) + os.getpid() * 4096  # a number to know our processes by
    programs = [Program(source, TEST, "f") for source in ATTACKS.values()]
    found = run(programs, seconds=1, memory=memory, using=using)
    allowed = {"fail", "timeout", "memory"}
    wrong = {k: v for k, v in zip(ATTACKS, found, strict=True) if v.status not in allowed}
    assert not wrong
    time.sleep(0.1)
    lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    assert not [line for line in lines if str(memory).encode() in line]
    assert not list(Path("/tmp").glob("icefloe-*"))


def test_memory_is_bounded(using: Tier) -> None:
    assert one("def f(n):\n    return len(bytearray(3 << 30))\n", using).status == "memory"
    hog = "def f(n):\n    x = []\n    while True: x.append(bytearray(1 << 20))\n"
    assert one(hog, using, memory=128 << 20).status == "memory"


@pytest.mark.parametrize("prelude", ["", "import signal\nsignal.signal(signal.SIGXCPU, print)\n"])
def test_endless_loops_end(using: Tier, prelude: str) -> None:
    loop = "def f(n):\n    while True:\n        try:\n            while True: pass\n"
    source = f"{prelude}{loop}        except BaseException: pass\n"
    assert one(source, using).status == "timeout"


def test_sleepers_end_by_the_clock(using: Tier) -> None:
    argv = sandbox.command(using.name, 1, 512 << 20)
    sleeper = Program("import time\ndef f(n):\n    time.sleep(1000)\n", TEST, "f")
    assert sandbox.judge(argv, sleeper, 1.0).status == "timeout"


def test_no_connection_arrives(using: Tier) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        call = f"import socket\ndef f(n):\n    socket.create_connection(('127.0.0.1', {port}))\n"
        assert one(f"{call}    return n + 1\n", using).status == "fail"
        with pytest.raises(TimeoutError):
            server.accept()


def test_files_outside_stay_unread_and_unwritten(using: Tier, tmp_path: Path) -> None:
    outside = tmp_path / "open-to-all"
    outside.write_text("1")
    for path in (outside, *list(outside.parents)[:3]):
        path.chmod(0o777)
    attacks = ("open(path)", "open(path, 'w')", "__import__('os').remove(path)")
    for attack in attacks:
        source = f"path = {str(outside)!r}\ndef f(n):\n    {attack}\n    return n + 1\n"
        assert one(source, using).status == "fail"
    assert outside.read_text() == "1"


def test_secrets_of_our_environment_stay_out(using: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICEFLOE_SECRET", "1")
    source = "import os\ndef f(n):\n    return n + int(os.environ['ICEFLOE_SECRET'])\n"
    assert one(source, using).status == "fail"


def test_values_cross_exactly(using: Tier) -> None:
    source = "def f(*args, **kwargs):\n    return args, kwargs\n"
    test = """
import math
def check(candidate):
    for value in (None, True, 2**70, -3, 0.1, -0.0, math.inf, 1j, 'é\\ud800', b'\\x00',
                  bytearray(2), [1, (2,)], {1: {2.5: set()}, (): frozenset({3})}, range(2, 9, 3)):
        (out,), named = candidate(value, key=value)
        assert type(out) is type(value) and out == value and named == {'key': value}, value
        assert repr(out) == repr(value)
    assert math.isnan(candidate(math.nan)[0][0])
"""
    assert one(source, using, test) == Verdict("pass")


def test_exceptions_cross_and_tests_may_use_the_programs_names(using: Tier) -> None:
    source = """
import math
def double(n): return 2 * n
def f(n):
    if n < 0: raise ValueError('negative')
    return math.sqrt(double(n))
"""
    test = """
def check(candidate):
    assert math.isclose(candidate(2), math.sqrt(double(2)))
    try:
        candidate(-1)
    except ValueError as e:
        assert str(e) == 'negative'
    else:
        assert False
"""
    assert one(source, using, test) == Verdict("pass")
    swallowing = "def check(candidate):\n    try: candidate(1)\n    except: pass\n"
    assert one("import os\ndef f(n): os._exit(0)\n", using, swallowing).status == "fail"


def test_tests_are_confined_too(using: Tier) -> None:
    test = "import os\ndef check(candidate):\n    os.listdir('/etc')\n"
    assert one(RIGHT, using, test).status == "fail"


def test_without_a_sandbox_nothing_runs() -> None:
    with pytest.raises(StageError, match="apt-get install bubblewrap"):
        run([Program(RIGHT, TEST, "f")], using=Tier("none", "apt-get install bubblewrap"))


def test_the_tier_is_one_that_works() -> None:
    found = sandbox.tier()
    assert found.name == "none" or not sandbox.probe(found.name)
    assert found.reason
