"""Which files an opt-out list hits, that its identity is its rules, and that every mistake is named."""

import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import RecipeError
from pipeline.core.optout import OptOut, load

LIST = """# people who asked
repo: Owner/Name   # all of it

author: Some One
path: other/repo/secret*.py
path: **/private/**
path: other/*/[!x]?.c
path: C#/keep.cs
"""


@pytest.fixture
def listed(tmp_path: Path) -> OptOut:
    return made(tmp_path, LIST)


def made(folder: Path, text: str) -> OptOut:
    (folder / "out.txt").write_text(text)
    return load(folder / "out.txt")


@pytest.mark.parametrize(
    ("repo", "author", "path", "rule"),
    [
        ("owner/name", None, "a.py", "repo: Owner/Name"),
        ("OWNER/NAME", "some one", "a.py", "repo: Owner/Name"),
        ("owner/names", None, "a.py", None),
        ("a/b", "SOME ONE", "a.py", "author: Some One"),
        ("a/b", "Some", "a.py", None),
        ("other/repo", None, "secrets.py", "path: other/repo/secret*.py"),
        ("Other/Repo", None, "SECRET.PY", "path: other/repo/secret*.py"),
        ("other/repo", None, "deep/secret.py", None),
        ("other/repo", None, "private/a.py", "path: **/private/**"),
        ("private", None, "a.py", "path: **/private/**"),
        ("a/b", None, "x/y/private/z/a.py", "path: **/private/**"),
        ("a/b", None, "notprivate/a.py", None),
        ("other/z", None, "yy.c", "path: other/*/[!x]?.c"),
        ("other/z", None, "xy.c", None),
        ("other/z", None, "/y.c", None),
        ("C#", None, "keep.cs", "path: C#/keep.cs"),
    ],
)
def test_a_file_is_hit_by_its_repository_its_author_or_its_path(
    listed: OptOut, repo: str, author: str | None, path: str, rule: str | None
) -> None:
    assert listed.rule(repo, author, path) == rule
    assert pickle.loads(pickle.dumps(listed)).rule(repo, author, path) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repo: a/b\nrepos: c/d\n", "out.txt:2: 'repos: c/d' is no rule; write repo:, author: or"),
        ("repos: c/d\n", "did you mean 'repo'?"),
        ("a/b\n", "'a/b' is no rule"),
        ("repo:\n", "out.txt:1: 'repo:': a value is missing"),
        ("repo: https://github.com/a/b\n", "that is an address; write owner/name"),
        ("repo: a/*\n", "write path: a/** for all below it"),
        ("path: a/b/\n", "write path: a/b/** for all below it"),
        ("path: /b.py\n", "write **/ in front"),
        ('path: "*/b.py"\n', "a value stands without quotes; write path: */b.py"),
    ],
)
def test_a_line_that_could_never_hit_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        made(tmp_path, text)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_bytes(b"repo: a/b\nrepo: \xff\n")
    with pytest.raises(RecipeError, match=r"out\.txt:2: not UTF-8"):
        load(tmp_path / "out.txt")
    with pytest.raises(RecipeError, match=r"did you mean 'out\.txt'\?"):
        load(tmp_path / "out.text")


def test_its_identity_is_its_rules_alone(tmp_path: Path) -> None:
    first = made(tmp_path, "repo: a/b\npath: x/**\n")
    same = made(tmp_path, "\ufeff# new comment\r\npath: x/**\r\nrepo: a/b\r\nrepo: a/b\r\n")
    other = made(tmp_path, "repo: a/c\npath: x/**\n")
    assert first == same
    assert first.fingerprint != other.fingerprint
    assert made(tmp_path, "").rule("a/b", "c", "d") is None


def test_a_long_list_costs_no_more_to_ask(tmp_path: Path) -> None:
    """10^5 globs stay apart by their first folder: one file is held against few of them."""
    rules = [f"repo: owner{n}/name\npath: other{n}/**/*.py" for n in range(100_000)]
    listed = made(tmp_path, "\n".join(rules))
    assert max(len(globs) for _, globs in listed.paths.values()) == 1
    assert listed.rule("other77/x", None, "a/b.py") == "path: other77/**/*.py"
    assert listed.rule("owner99999/name", None, "b.c") == "repo: owner99999/name"


NAMES = st.text("ab.!^-\\{}()+|$&~/é", min_size=1, max_size=12)


@given(NAMES.filter(lambda name: "/" not in name[0] + name[-1]))
def test_a_path_without_wildcards_hits_itself(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    listed = made(tmp_path_factory.mktemp("list"), f"path: {name}/file")
    assert listed.rule(name, None, "file") == f"path: {name}/file"
    assert listed.rule(name, None, "files") is None
    assert listed.rule("x" + name, None, "file") is None


@given(st.text("ab*?/[]!^-\\.", min_size=1, max_size=10).filter(lambda g: g[0] != "/" != g[-1]))
def test_any_glob_compiles(tmp_path_factory: pytest.TempPathFactory, glob: str) -> None:
    listed = made(tmp_path_factory.mktemp("list"), f"path: {glob}")
    assert listed.rule("a", None, "b.a") in (None, f"path: {glob}")
