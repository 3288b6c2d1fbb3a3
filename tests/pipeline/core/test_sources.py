"""Listing: what a path means, git at any revision, npm and Python packages, and how shards are cut."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import groups, notices, readers, sources
from pipeline.core.errors import RecipeError
from pipeline.core.repos import Entry, Raw, Repo, leaves, shown
from pipeline.core.sources import Source, guess, repositories
from tests.corpus import write


def git(folder: Path, *words: str) -> str:
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = {f"GIT_{r}_{k}": v for r in ("AUTHOR", "COMMITTER") for k, v in WHO.items()}
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | alone | who
    )
    return done.stdout.strip()


WHO = {"NAME": "Ada L", "EMAIL": "ada@example.com", "DATE": "2026-01-01T00:00:00Z"}


def committed(folder: Path, files: dict[str, str | bytes], message: str = "m") -> str:
    """Commit files (and nothing else) in a repository that is made where there is none."""
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "-q", "-b", "main")
    write(folder, files)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def read(source: Source, limit: int = 10**6) -> list[Raw]:
    repos = sources.repositories(source)
    return [raw for repo in repos for raw in readers.read(repo, limit, lambda *_: None)]


def told(raws: list[Raw]) -> dict[str, object]:
    return {r.path: r.rule or r.data for r in raws}


def test_git_gives_the_objects_of_any_revision(tmp_path: Path) -> None:
    work = tmp_path / "src/app"
    first = committed(work, {"a.py": "x = 1\n", "LICENSE": "SPDX-License-Identifier: MIT\n"})
    git(work, "tag", "v1")
    committed(work, {"a.py": "x = 2\n"})
    write(work, {"a.py": "not committed\n"})
    for revision, text in ((None, b"x = 2\n"), ("v1", b"x = 1\n"), (first[:10], b"x = 1\n")):
        raws = read(Source(kind="git", path=str(tmp_path / "src"), revision=revision))
        assert told(raws)["a.py"] == text
        assert {(r.repo, r.licence) for r in raws} == {("app", "MIT")}
    assert told(read(Source(kind="folder", path=str(work))))["a.py"] == b"not committed\n"
    with pytest.raises(RecipeError, match=r"app: git: no revision 'v9'; check `revision`"):
        read(Source(kind="git", path=str(work), revision="v9"))


def test_a_folder_of_bare_repositories_with_links_submodules_and_filters(tmp_path: Path) -> None:
    work = tmp_path / "work"
    committed(tmp_path / "inner", {"i.py": "i = 1\n"})
    committed(work, {"a.py": "x = 1\n", ".gitattributes": "*.py filter=evil\n"})
    (work / "link.py").symlink_to("a.py")
    (work / os.fsdecode(b"\xff.py")).write_text("y = 1\n")
    git(work, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../inner", "sub")
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "more")
    for name in ("own/one.git", "own/two.git"):
        git(tmp_path, "clone", "-q", "--bare", str(work), str(tmp_path / "bare" / name))
    hook = f"touch {tmp_path / 'ran'}"
    for key in ("filter.evil.smudge", "filter.evil.clean", "core.fsmonitor"):
        git(tmp_path / "bare/own/one.git", "config", key, hook)
    raws = read(Source(kind="git", path=str(tmp_path / "bare")))
    assert {r.repo for r in raws} == {"own/one", "own/two"}
    found = told(raws)
    assert found["sub"] == "submodule"
    assert found["link.py"] == "not_regular"
    assert found["a.py"] == b"x = 1\n"
    assert found["\\xff.py"] == b"y = 1\n"
    assert not (tmp_path / "ran").exists()
    assert sources.guess(str(tmp_path / "bare/own")).kind == "git"
    assert sources.guess(str(tmp_path / "bare/own/one.git")).kind == "git"


def test_an_empty_or_damaged_repository_is_one_row_or_the_rows_that_are_damaged(
    tmp_path: Path,
) -> None:
    committed(tmp_path / "src/good", {"a.py": "x = 1\n", "b.py": "y = 1\n"})
    git(tmp_path, "init", "-q", str(tmp_path / "src/new"))
    oid = git(tmp_path / "src/good", "rev-parse", "HEAD:a.py")
    path = tmp_path / "src/good/.git/objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    raws = read(Source(kind="git", path=str(tmp_path / "src")))
    assert {(r.repo, r.path): r.rule for r in raws} == {
        ("good", "a.py"): "quarantine",
        ("good", "b.py"): None,
        ("new", "."): "quarantine",
    }
    assert "no commit yet" in str(raws[-1].evidence)


def test_a_new_commit_changes_the_fingerprint_and_a_touched_file_does_not(tmp_path: Path) -> None:
    source = Source(kind="git", path=str(tmp_path / "r"))
    committed(tmp_path / "r", {"a.py": "x = 1\n"})
    before = sources.repositories(source)[0].fingerprint
    os.utime(tmp_path / "r/a.py", (1, 1))
    assert sources.repositories(source)[0].fingerprint == before
    committed(tmp_path / "r", {"b.py": "x = 2\n"})
    assert sources.repositories(source)[0].fingerprint != before


def test_npm_packages_are_repositories_with_their_own_licence(tmp_path: Path) -> None:
    modules = tmp_path / "app/node_modules"
    for name, licence in (("one", "MIT"), ("@s/two", "(MIT OR GPL-3.0-only)")):
        told_by = json.dumps({"name": name, "version": "1.0", "license": licence})
        write(modules / name, {"package.json": told_by, "index.js": "let x;\n"})
    inner = {"package.json": '{"licenses": [{"type": "ISC"}]}', "lib/i.js": "let y;\n"}
    write(modules / "one/node_modules/three", inner)
    raws = read(sources.guess(str(modules)))
    assert {(r.repo, r.path, r.licence) for r in raws if r.path.endswith(".js")} == {
        ("one", "index.js", "MIT"),
        ("@s/two", "index.js", "MIT OR GPL-3.0-only"),
        ("one/node_modules/three", "lib/i.js", "ISC"),
    }


def test_installed_distributions_state_their_licence() -> None:
    raws = read(Source(kind="installed", sample=1_000_000, per_repo=20_000))
    assert {r.licence for r in raws} - {None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "folder", "path": "x", "revision": "main"}, "only kind git has one"),
        ({"kind": "git", "path": "x", "columns": {"text": "b"}}, "only kind table"),
        ({"kind": "table", "path": "x", "columns": {"txt": "b"}}, "did you mean 'text'"),
        ({"kind": "folder", "path": "x", "sample": 0}, "at least 1 byte"),
        ({"kind": "stdlib", "path": "x"}, "leave it out"),
        ({"kind": "git", "path": ""}, "path is empty"),
        ({"kind": "git", "path": "x", "revision": ""}, "revision is ''; name a branch"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Source(**settings)


@pytest.mark.parametrize(
    ("place", "message"), [("", "source is empty"), ("/" + "x" * 300, "File name too long")]
)
def test_a_place_that_cannot_be_is_named(place: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        repositories(guess(place))


@pytest.mark.skipif(os.geteuid() != 0, reason="taking on another user needs root")
@pytest.mark.parametrize("kind", ["folder", "git", "npm", None])
def test_a_folder_that_may_not_be_listed_is_named(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    place = str(tmp_path / "mine")
    os.seteuid(65534)
    try:
        with pytest.raises(RecipeError, match=r"source .*Permission denied.*; make it readable"):
            repositories(Source(kind=kind, path=place) if kind else guess(place))
    finally:
        os.seteuid(0)


def repo(name: str, size: int) -> Repo:
    return Repo("s", name, "folder", "/none", (Entry("a.py", size, 0),))


@given(
    st.dictionaries(st.integers(0, 10**6), st.integers(0, 5_000), max_size=80),
    st.integers(0, 10**6),
)
def test_one_more_repository_remakes_few_shards(sizes: dict[int, int], extra: int) -> None:
    def cut(of: dict[int, int]) -> list[list[str]]:
        repos = [repo(f"{n:07}", size) for n, size in sorted(of.items())]
        return [[r.name for r in i["repos"]] for i in groups.shards(repos, 10**6, 10_000, "")]

    before, after = cut(sizes), cut(sizes | {extra: 100})
    assert [n for g in before for n in g] == [f"{n:07}" for n in sorted(sizes)]
    for group in before:
        held = [sizes[int(n)] + groups.ROW_BYTES for n in group]
        assert len(group) == 1 or sum(held) <= 10_000
    # Ends that the names give stay, so shards that lie wholly before the new one do.
    same = [g for g in before if int(g[-1]) < extra]
    assert after[: len(same[:-1])] == same[:-1]


def test_a_repository_above_the_limit_is_cut_into_pieces_with_the_notices_they_need() -> None:
    entries = tuple(Entry(f"d{n // 10}/f{n:03}.py", 1000, 0) for n in range(100))
    notes = (Entry("LICENSE", 10, 0), Entry("d3/LICENSE", 10, 0))
    big = Repo("s", "big", "folder", "/none", tuple(sorted((*entries, *notes))), notes)
    items = list(groups.shards([big], 10**6, 20_000, ""))
    pieces = [i["repos"][0] for i in items]
    assert len(items) > 5
    assert len({i["name"] for i in items}) == len(items)
    assert [e for p in pieces for e in p.entries] == list(big.entries)
    assert all(notes[0] in p.notices for p in pieces)
    assert any(notes[1] in p.notices for p in pieces) > all(notes[1] in p.notices for p in pieces)


def test_many_shards_of_like_names_keep_names_of_their_own() -> None:
    repos = [repo(f"{'long/' * 20}part-{n}", 100) for n in range(12_000)]
    names = [i["name"] for i in groups.shards(repos, 10**6, 1, "")]
    assert len(set(names)) == len(names) == len(repos)


def test_the_nearest_notice_up_the_path_holds() -> None:
    by_folder = notices.stated(
        [
            ("package.json", b'{"license": "Apache-2.0"}'),
            ("vendor/LICENSE", b"SPDX-License-Identifier: ISC"),
            ("odd/LICENSE.md", b"All yours on Tuesdays."),
            ("two/LICENSE-MIT", b"SPDX-License-Identifier: MIT"),
            ("two/LICENSE-APACHE", b"SPDX-License-Identifier: Apache-2.0"),
            ("two/Cargo.toml", b'[package]\nlicense = "MIT/Apache-2.0"'),
            ("both/COPYING", b"SPDX-License-Identifier: GPL-2.0-only"),
            ("both/LICENSE", b"SPDX-License-Identifier: MIT"),
            ("bad/package.json", b'{"license": '),
        ]
    )
    of = notices.nearest(by_folder, None)
    assert not notices.speaks("code/license.go")
    assert of("a/b/c.py") == "Apache-2.0"
    assert of("vendor/x/y.c") == "ISC"
    assert of("odd/a.py") == "NOASSERTION"
    assert of("two/src/l.rs") == "MIT OR Apache-2.0"
    assert of("both/a.c") == "GPL-2.0-only AND MIT"
    assert of("bad/a.js") == "Apache-2.0"
    assert of("d/" * 5000 + "a.py") == "Apache-2.0"


@given(st.text(st.characters(codec=None)))
def test_shown_names_are_valid_utf8_and_stay_apart_from_what_is(name: str) -> None:
    assert shown(name).encode().decode() == shown(name)
    assert not name.isascii() or shown(name) == name


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "C:/a", "..\\a", "\\a", "a\\..\\b"])
def test_paths_that_leave(path: str) -> None:
    assert leaves(path)
    assert not leaves("a..b/c..d/e:f")
