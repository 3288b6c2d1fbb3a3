"""What the benchmarks measure on: packages read into rows, halves that share no repository, classes that
are equally large in each language, and how much of a budget is planted."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.model.evidence import Doc
from tests.bench import corpus, packages, planted
from tests.bench.quality import over_groups, precision

GOOD = '''
def {0}_one(x: int) -> int:
    """Return the number, which is {0}."""
    return x + {1}

def {0}_two(x: int) -> int:
    """Return twice the number, which is {0}."""
    return 2 * x + {1}

def {0}_three(x: int) -> int:
    """Return thrice the number, which is {0}."""
    return 3 * x + {1}
'''
BARE = "# {0} {1}: nothing is said of what follows, though there is a comment\n" + "".join(
    f"def {{0}}_{name}(x):\n    return {{1}} + {name}(x)\n\n" for name in ("four", "five", "six")
)


def test_packages_are_read_file_by_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some_thing-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_thing/b.py", "b = 1\n")
        wheel.writestr("some_thing/a.pyx", "a = 1\n")
        wheel.writestr("some_thing/data.bin", b"\xff")
    with tarfile.open(tmp_path / "scope-name-2.0.0.tgz", "w:gz") as archive:
        for name, data in (
            ("src/x.ts", b"x"),
            ("x.d.ts", b"y"),
            ("dist/x.js", b"y"),
            ("lib/x.mjs", b"\xff"),
            ("e.js", b""),
        ):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert list(packages._rows(tmp_path)) == [
        {"repo": "scope-name-2.0.0", "path": "src/x.ts", "language": "TypeScript", "text": "x"},
        {
            "repo": "some_thing-1.2",
            "path": "some_thing/a.pyx",
            "language": "Python",
            "text": "a = 1\n",
        },
        {
            "repo": "some_thing-1.2",
            "path": "some_thing/b.py",
            "language": "Python",
            "text": "b = 1\n",
        },
    ]
    assert packages.tarball("@scope/name@2.0.0") == "scope-name-2.0.0.tgz"


def test_every_line_of_the_lists_names_one_version() -> None:
    for name in ("wheels.txt", "mixed.txt"):
        pins = (Path(packages.__file__).parent / name).read_text().split()
        assert len(set(pins)) == len(pins)
        assert all(pin.partition("==")[2] or pin.lstrip("@").partition("@")[2] for pin in pins)


def test_the_limit_is_of_each_language() -> None:
    keys, sizes = ["b", "a", "c", "d"], [2, 2, 2, 2]
    assert corpus.within(keys, sizes, 4) == [1, 0]
    assert corpus.within(keys, sizes, 4, ["x", "x", "x", "y"]) == [1, 0, 3]


def table() -> pa.Table:
    """Two versions of 12 packages, and a standard library."""
    rows = [
        {"repo": repo, "path": f"{kind}{k}.py", "language": "Python", "text": text.format(name, k)}
        for name in (*(f"p{n}" for n in range(12)), "stdlib")
        for repo in ([f"{name}-1.0", f"{name}-2.0"] if name != "stdlib" else [name])
        for k in range(4)
        for kind, text in (("good", GOOD), ("bare", BARE))
    ]
    return pa.Table.from_pylist(rows, corpus.COLUMNS)


def test_halves_share_no_repository_and_no_copy(tmp_path: Path) -> None:
    found = planted.dealt(table(), tmp_path, each=2, seed=0)
    learnt = {r["repo"] for r in found.learn}
    looked = {d.repo for side in found.planted for d in side}
    assert learnt
    assert looked
    assert not learnt & looked
    assert not any(name.endswith("-1.0") for name in learnt | looked)
    texts = [r["text"] for r in found.learn] + [d.text for side in found.planted for d in side]
    assert len(set(texts)) == len(texts)
    assert all(d.path.startswith("good") for d in found.planted[0])
    assert {d.repo for d in found.real[0]} == {"stdlib"}
    kept = [(r["repo"], r["good"]) for r in found.learn]
    assert max(map(kept.count, kept)) <= 2


def test_each_language_has_as_many_of_both_classes() -> None:
    rows = [
        {
            "repo": f"r{k % 3}",
            "path": f"{k}",
            "language": language,
            "good": k % 4 == 0,
            "text": "x" * k,
        }
        for language in ("Python", "C")
        for k in range(100, 140)
    ]
    for match in (False, True):
        learn = planted.to_learn(rows, 5, match)
        assert [r["good"] for r in learn if r["language"] == "C"].count(True) == 5
        assert [r["good"] for r in learn].count(False) == 10


def test_precision_of_a_budget() -> None:
    good = [Doc(f"g{k}", "x" * 10, "r", "p", "C") for k in range(10)]
    rest = [Doc(f"c{k}", "x" * 10, "r", "p", "C") for k in range(70)]
    first = {d.uid: float(d.uid[0] == "g") for d in good + rest}
    assert precision((good, rest), first) == {"C": {"selected": 1.0, "random": 0.125}}
    assert precision((good, rest), dict.fromkeys(first, 0.0))["C"]["selected"] == 0.0


def test_the_interval_over_groups_is_that_of_whole_groups() -> None:
    scores, good = np.array([0.9, 0.1] * 20), np.array([True, False] * 20)
    assert over_groups(scores, good, ["a", "b"] * 20) == (1.0, 1.0)
    mixed = np.r_[scores[:20], 1 - scores[20:]]  # half of the groups the other way around
    low, high = over_groups(mixed, good, [f"g{k // 10}" for k in range(40)]) or (0, 0)
    assert low == 0.0
    assert high == 1.0
    assert over_groups(scores, good, ["a"] * 40) is None
