"""Git repositories through the `git` command: what a commit holds, and the objects' bytes.

Only plumbing that runs nothing of the repository's: no hooks, no filters (an LFS file is its
pointer), no fetching of what a partial clone lacks. Knows nothing of licences or languages.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache

from pipeline.core.errors import RecipeError
from pipeline.core.repos import Entry

_SAFE = (
    *("--no-optional-locks", "--no-replace-objects", "-c", "safe.directory=*"),
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"),
)
_ALONE = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",  # git 2.44; before it, no protocol is allowed to fetch by
    "GIT_ALLOW_PROTOCOL": "none",
}
_FORMS = {"120000": "link", "160000": "submodule"}
_STOPS = 100
"""How often git may stop at a damaged object of one repository before the rest is given up (ours)."""


class Unreadable(Exception):
    """What git said of a repository or revision that it cannot read."""


def is_bare(path: str) -> bool:
    """Whether a folder is itself a git folder: a bare repository."""
    parts = ("HEAD", "objects", "refs")
    return all(os.path.exists(os.path.join(path, part)) for part in parts)


def folder(path: str) -> str | None:
    """The git folder of a checkout or bare repository; None when it is neither."""
    inside = os.path.join(path, ".git")
    if os.path.lexists(inside):
        return inside
    return path if is_bare(path) else None


def below(root: str, inside: str = "") -> Iterator[tuple[str, str]]:
    """(path below `root`, git folder) of every repository there, in order; links are not followed."""
    here = os.path.join(root, inside)
    if found := folder(here):
        yield inside, found
        return
    with os.scandir(here) as entries:
        names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    for name in names:
        yield from below(root, os.path.join(inside, name))


def commit(git_folder: str, revision: str | None) -> str:
    """The commit that a revision (None: HEAD) names; Unreadable when there is none."""
    words = ("--verify", "--quiet", "--end-of-options", f"{revision or 'HEAD'}^{{commit}}")
    try:
        return _output(git_folder, "rev-parse", *words).decode().strip()
    except Unreadable as e:
        said = str(e) or (f"no revision {revision!r}" if revision else "no commit yet")
        raise Unreadable(said) from None


@cache  # a commit's tree never changes, so what is listed twice is listed once
def tree(git_folder: str, oid: str) -> tuple[Entry, ...]:
    """Every file of a commit, in git's order; Unreadable when a folder's object is not there."""
    return tuple(
        map(_entry, _output(git_folder, "ls-tree", "-r", "-l", "-z", oid).split(b"\0")[:-1])
    )


def _entry(line: bytes) -> Entry:
    said, _, path = line.partition(b"\t")
    mode, _, oid, size = said.decode().split()
    form = _FORMS.get(mode, "missing" if size == "BAD" else "file")
    return Entry(os.fsdecode(path), int(size) if size.isdigit() else 0, oid, form)


def authors(raw: bytes | None) -> tuple[str, ...]:
    """The author's name and e-mail address in a commit object; nothing where it names none."""
    line = next(
        (x for x in (raw or b"").split(b"\n\n")[0].split(b"\n") if x[:7] == b"author "), b""
    )
    name, _, rest = line[7:].decode("utf-8", "replace").partition(" <")
    return tuple(word for word in (name.strip(), rest.partition(">")[0]) if word)


def contents(git_folder: str, oids: Sequence[str]) -> Iterator[bytes | None]:
    """The bytes of each object, in order, one at a time; None for one that is missing or damaged."""
    at = 0
    for _ in range(_STOPS):
        for data in _batch(git_folder, oids[at:]):
            yield data
            at += 1
        if at == len(oids):
            return
        yield None  # git stopped at this one
        at += 1
    yield from [None] * (len(oids) - at)


def _batch(git_folder: str, oids: Sequence[str]) -> Iterator[bytes | None]:
    """What one `git cat-file` gives before it ends, of its own accord or at a damaged object."""
    with tempfile.TemporaryFile() as asked:  # not a pipe: nobody has to feed it while we read
        asked.write("".join(f"{oid}\n" for oid in oids).encode())
        asked.seek(0)
        with subprocess.Popen(
            _command(git_folder, "cat-file", "--batch"),
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            bufsize=1 << 16,
        ) as process:
            assert process.stdout is not None
            try:
                while head := process.stdout.readline().split():
                    if len(head) != 3:
                        yield None
                        continue
                    size = int(head[2])
                    data = process.stdout.read(size + 1)
                    if len(data) <= size:
                        return
                    yield data[:-1]
            finally:
                process.kill()


def _output(git_folder: str, *words: str) -> bytes:
    done = subprocess.run(
        _command(git_folder, *words), env=_environment(), capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Unreadable(said[0].removeprefix("fatal: ") if said else "")
    return done.stdout


def _command(git_folder: str, *words: str) -> list[str]:
    git = shutil.which("git")
    if git is None:
        raise RecipeError(
            "source: kind git needs the `git` command and there is none on this machine; "
            "install it, or give a checkout as kind folder"
        )
    return [git, f"--git-dir={git_folder}", *_SAFE, *words]


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | _ALONE
