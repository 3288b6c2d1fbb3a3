"""What runs inside the sandbox: one process calls, another one answers. See `sandbox` for both.

Started as `python -c <this text> <settings>` with the program and its test on stdin. It gives up
rights, forks, and only then reads stdin: the child (the candidate) gets the program's source and
the arguments of each call, never the test. Standard library of Python 3.10 only; imports nothing
of ours.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib
import json
import os
import resource
import signal
import struct
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from types import CodeType, ModuleType
from typing import Any, NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
LIMIT = 1 << 26  # bytes of one message between candidate and tester
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3

ALLOWED = {
    # read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction
    # rt_sigprocmask rt_sigreturn pread64 readv writev access sched_yield mremap madvise
    # nanosleep getpid exit wait4 uname getcwd readlink gettimeofday getrusage sysinfo times getuid
    # getgid geteuid getegid sigaltstack gettid time futex sched_getaffinity getdents64
    # restart_syscall clock_gettime clock_getres clock_nanosleep exit_group openat newfstatat
    # readlinkat faccessat getrandom statx rseq faccessat2
    "x86_64": (0xC000003E, [
        *range(16), 17, 19, 20, 21, 24, 25, 28, 35, 39, 60, 61, 63, 79, 89, 96, 98, 99,
        100, 102, 104, 107, 108, 131, 186, 201, 202, 204, 217, 219, 228, 229, 230, 231, 257, 262,
        267, 269, 318, 332, 334, 439,
    ]),
    # the same without the calls that this architecture never had
    "aarch64": (0xC00000B7, [
        17, 48, 56, 57, 61, 62, 63, 64, 65, 66, 67, 73, 78, 79, 80, 93, 94, 98, 101, 113,
        114, 115, 123, 124, 128, 132, 134, 135, 139, 153, 160, 165, 169, 172, 174, 175, 176, 177,
        178, 179, 214, 215, 216, 222, 226, 233, 260, 278, 291, 293, 439,
    ]),
}  # fmt: skip
"""Machine -> (audit architecture, numbers of the system calls that stay allowed)."""
KILL = {"x86_64": 62, "aarch64": 129}
"""Allowed to the tester alone."""


def main(settings: dict[str, Any]) -> None:
    """Give up rights, fork, and be the tester in one process and the candidate in the other."""
    null, machine = os.open("/dev/null", os.O_RDWR), os.uname().machine
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    confine(settings["read"], settings["landlock"])
    limit(settings["seconds"], settings["memory"])
    to_candidate, from_candidate = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        keep(null, to_candidate[0], from_candidate[1])
        filter_calls(ALLOWED[machine][1])
        answer(Channel(to_candidate[0], from_candidate[1]))
    verdict, stdin = os.dup(1), os.dup(0)
    keep(null, verdict, stdin, to_candidate[1], from_candidate[0])
    filter_calls([*ALLOWED[machine][1], KILL[machine]])
    channel = Channel(from_candidate[0], to_candidate[1])
    with open(stdin, "rb") as f:
        result = judge(json.loads(f.read()), channel, pid, settings["seconds"])
    end(pid)
    os.write(verdict, json.dumps(result).encode())


def confine(read: list[str], required: bool) -> None:
    """No new privileges; of the file system only `read` may be read, nothing written (Landlock).

    Where the kernel has no Landlock this raises if `required`, and else leaves files to the
    mount namespace.
    """
    call(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    abi = LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if abi < 1 and not required:
        return
    call(abi, "Landlock")
    files = (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1
    rules = struct.pack("=QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = call(LIBC.syscall(LANDLOCK_CREATE, rules, ctypes.c_size_t(size), 0), "Landlock")
    for path in filter(os.path.exists, read):
        allowed = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        beneath = struct.pack("=Qi", allowed, os.open(path, os.O_PATH))
        call(LIBC.syscall(LANDLOCK_ADD, ruleset, 1, beneath, 0), f"Landlock rule for {path}")
    call(LIBC.syscall(LANDLOCK_RESTRICT, ruleset, 0), "Landlock")


def call(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def limit(seconds: int, memory: int) -> None:
    """Limits of each of the two processes; a file can have no byte, a core dump neither."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for kind, value in (("FSIZE", 0), ("CORE", 0), ("NOFILE", 64)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (value, value))


def keep(null: int, *fds: int) -> None:
    """Only `fds` stay open; 0, 1 and 2 become /dev/null, so that output costs nothing."""
    for fd in range(64):
        if fd < 3:
            os.dup2(null, fd)
        elif fd not in fds:
            try:
                os.close(fd)
            except OSError:
                continue


def filter_calls(numbers: list[int]) -> None:
    """System calls but `numbers` fail with EPERM: no process, thread, socket, signal, tracing."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    arch = ALLOWED[os.uname().machine][0]
    load_arch, load_number, kill, refuse, allow = 4, 0, 0x80000000, 0x00050001, 0x7FFF0000
    code = [(0x20, 0, 0, load_arch), (0x15, 1, 0, arch), (0x06, 0, 0, kill)]
    code.append((0x20, 0, 0, load_number))
    for i, number in enumerate(numbers):
        code.append((0x15, len(numbers) - i, 0, number))
    code += [(0x06, 0, 0, refuse), (0x06, 0, 0, allow)]
    text = b"".join(struct.pack("=HBBI", *line) for line in code)
    block = ctypes.create_string_buffer(text, len(text))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(block))
    call(LIBC.prctl(PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


class Gone(BaseException):
    """The process at the other end is no more."""


class Channel:
    """Lines of JSON over two pipes; the candidate is the untrusted end of it."""

    def __init__(self, inbox: int, outbox: int) -> None:
        self.inbox, self.outbox, self.rest = inbox, outbox, b""

    def send(self, message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.outbox, data) :]

    def receive(self) -> Any:
        parts = [self.rest]
        size = 0
        while b"\n" not in parts[-1]:
            parts.append(os.read(self.inbox, 1 << 16))
            size += len(parts[-1])
            if not parts[-1]:
                raise Gone
            if size > LIMIT:
                raise ValueError(f"an answer of more than {LIMIT} bytes")
        line, _, self.rest = b"".join(parts).partition(b"\n")
        return json.loads(line)


def answer(channel: Channel) -> NoReturn:
    """The candidate: define the program, then answer calls until killed."""
    module = ModuleType("program")
    sys.modules["program"] = module
    sys.path[:] = [p for p in sys.path if p]
    source = channel.receive()
    channel.send(attempt(partial(define, source, module)))
    while True:
        name, args, kwargs = channel.receive()
        channel.send(attempt(partial(call_one, module, name, decode(args), decode(kwargs))))


def attempt(action: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": action()}
    except BaseException as e:
        try:
            return {"error": [type(e).__name__, str(e)[:500]]}
        except BaseException:
            return {"error": ["RuntimeError", "an exception without a text"]}


def define(source: str, module: ModuleType) -> dict[str, str]:
    """Run the program; the names it left: a module's own name, or "" for what can be called."""
    exec(compile(source, "program.py", "exec"), module.__dict__)
    left = {k: v for k, v in vars(module).items() if isinstance(k, str) and k[:2] != "__"}
    modules = {k: v.__name__ for k, v in left.items() if type(v) is ModuleType}
    return {**{k: "" for k, v in left.items() if callable(v)}, **modules}


def call_one(module: ModuleType, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return encode(getattr(module, name)(*args, **kwargs))


def encode(value: Any) -> Any:
    """`value` as JSON; TypeError unless it is made of exactly the built-in types.

    The dictionaries of `collections` cross as plain ones.
    """
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        return value if value.bit_length() < 64 else {"int": hex(value)}
    if kind is list:
        return [encode(v) for v in value]
    if kind in (dict, Counter, OrderedDict, defaultdict):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if kind in (tuple, set, frozenset):
        return {kind.__name__: [encode(v) for v in value]}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind in (bytes, bytearray):
        return {kind.__name__: list(value)}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    raise TypeError(f"a value of type {kind.__name__} is not built-in")


def decode(value: Any) -> Any:
    """The inverse of `encode`; any exception means that the message was forged."""
    if type(value) is list:
        return [decode(v) for v in value]
    if type(value) is not dict:
        return value
    ((kind, inner),) = value.items()
    if kind == "int":
        return int(inner, 16)
    if kind == "dict":
        return {decode(k): decode(v) for k, v in inner}
    items = [decode(v) for v in inner]
    if kind in ("complex", "range"):
        return getattr(builtins, kind)(*items)
    assert kind in ("tuple", "set", "frozenset", "bytes", "bytearray"), kind
    return getattr(builtins, kind)(items)


def judge(request: dict[str, str], channel: Channel, pid: int, seconds: int) -> list[str]:
    """The tester: [status, detail] after the last check of `request["test"]` or the first miss."""
    gone: list[str] = []
    try:
        channel.send(request["source"])
        left = value_of(channel)
        test(request, left, channel)
    except (Gone, BrokenPipeError):
        gone = fate(pid, seconds)
    except BaseException as e:
        memory = isinstance(e, MemoryError)
        return ["memory" if memory else "fail", f"{type(e).__name__}: {e}"[:500]]
    return gone or ["pass", ""]


def value_of(channel: Channel) -> Any:
    """The candidate's next answer; its exception, if built-in, is raised again here."""
    reply = channel.receive()
    if "value" in reply:
        return reply["value"]
    name, text = reply["error"]
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error = kind(text)
        except TypeError:  # UnicodeDecodeError and its like want more than a text
            error = RuntimeError(f"{name}: {text}")
        raise error
    raise RuntimeError(f"{name}: {text}")


def test(request: dict[str, str], left: dict[str, str], channel: Channel) -> None:
    """Run the test with the names it borrows from the program, and call its `check`."""
    code = compile(request["test"], "test.py", "exec")
    space: dict[str, Any] = {"__name__": "test"}
    gone: list[Gone] = []

    def stub(name: str) -> Callable[..., Any]:
        def candidate(*args: Any, **kwargs: Any) -> Any:
            channel.send([name, encode(list(args)), encode(kwargs)])
            try:
                return decode(value_of(channel))
            except Gone as e:
                gone.append(e)
                raise

        return candidate

    for name in names(code) & set(left) - set(vars(builtins)):
        root = left[name].partition(".")[0]
        if not root:
            space[name] = stub(name)
        elif root in sys.stdlib_module_names:
            space[name] = importlib.import_module(left[name])
    exec(code, space)
    space["check"](stub(request["entry_point"]))
    if gone:
        raise gone[0]


def names(code: CodeType) -> set[str]:
    """Every global name that `code` or a function in it may look up."""
    inner = [names(c) for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*inner)


def end(pid: int) -> None:
    """No candidate survives its verdict, and none is left for others to reap."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except OSError:  # `fate` has seen its end
        return


def fate(pid: int, seconds: int) -> list[str]:
    """What became of a candidate that stopped answering."""
    _, status, usage = os.wait4(pid, 0)
    if not os.WIFSIGNALED(status):
        return ["fail", f"the program ended (status {status >> 8}) before the last check"]
    if usage.ru_utime + usage.ru_stime >= 0.9 * seconds:
        return ["timeout", f"more than {seconds} s of processor time"]
    return ["fail", f"the program was ended by signal {os.WTERMSIG(status)}"]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
