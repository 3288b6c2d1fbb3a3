"""Look: the files a rule dropped and kept, the same ones every time, near copies as differences."""

import io
import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import cli, look, report, runs
from cluster.look import Example
from pipeline.core.errors import RecipeError
from pipeline.core.log import Terminal
from pipeline.core.runner import Artifact
from pipeline.core.store import Store
from tests.corpus import documented, repositories, write
from tests.running import curation, recipe_file, run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("look")
    steps = curation(repositories(folder / "source", 4))
    run(recipe_file(folder / "small.yaml", steps), folder / "store", until="unique")
    return Store(str(folder / "store"))


def step(store: Store, name: str) -> Artifact:
    return runs.artifact(store, "small", name)


def test_every_dropped_file_is_shown_once_with_its_rule(store: Store) -> None:
    for name in ("clean", "unique"):
        rows = step(store, name).manifest["rows"]
        found = look.dropped(step(store, name), 10**6)
        assert len({e.uid for e in found}) == len(found) == sum(rows["dropped"].values())
        for rule, count in rows["dropped"].items():
            told = look.dropped(step(store, name), 10**6, rule)
            assert (len(told), {e.rule for e in told}) == (count, {rule})
        stay = look.kept(step(store, name), 10**6)
        assert (len(stay), {e.rule for e in stay}) == (rows["kept"], {None})


def test_what_ingest_did_not_take_is_told_without_a_text(store: Store) -> None:
    found = look.dropped(step(store, "raw"), 10**6)
    assert len(found) == sum(step(store, "raw").manifest["rows"]["dropped"].values())
    assert {(e.path, e.rule, e.text) for e in found} >= {("data.bin", "not_source", None)}


def test_texts_are_shown_with_their_redactions(store: Store) -> None:
    for name in ("clean", "raw"):  # ingest's store has the secrets; its examples have not
        texts = [e.text for e in look.kept(step(store, name), 10**6) if e.path == "README.md"]
        assert len(texts) == 4
        assert all("<EMAIL>" in str(t) and "@" not in str(t) for t in texts)
    assert "@company" not in Path(report.write(store, "small")).read_text()


def test_a_step_is_told_from_an_older_one_of_its_name(tmp_path: Path) -> None:
    first = {
        "raw": {"use": "ingest", "source": str(repositories(tmp_path / "source", 4))},
        "clean": {"use": "filter", "files": "raw", "limits": {"max_lines": 10}},
    }
    second = {
        "raw": first["raw"],
        "sound": first["clean"],  # made as `clean` by the first run, and found again
        "clean": {"use": "dedup", "files": "sound"},
    }
    run(recipe_file(tmp_path / "first.yaml", first), tmp_path / "store")
    made = run(recipe_file(tmp_path / "second.yaml", second), tmp_path / "store")
    clean = runs.artifact(Store(str(tmp_path / "store")), "second", "clean")
    rows = made["clean"]["rows"]
    assert made["sound"]["rows"]["dropped"]
    assert len(look.dropped(clean, 10**6)) == sum(rows["dropped"].values())
    assert len(look.kept(clean, 10**6)) == rows["kept"]


def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "app" / "[id]" / "x["
    folder.mkdir(parents=True)
    (folder / "red].py").write_text("x = 1\nprint(x)\n")
    (folder / "red].bin").write_text("x")
    steps = {"raw": {"use": "ingest", "source": str(tmp_path / "source")}}
    run(recipe_file(tmp_path / "small.yaml", steps), tmp_path / "store")
    for name in ("red].py", "red].bin"):
        words = ["explain", name, "--store", str(tmp_path / "store")]
        told = CliRunner().invoke(cli.cli, words)
        assert (told.exit_code, f"app/[id]/x[/{name}" in told.stdout) == (0, True)


def test_a_near_copy_is_its_difference_from_the_file_kept_instead(store: Store) -> None:
    found = look.dropped(step(store, "unique"), 10, "near")
    assert {e.path for e in found} == {"near.py"}
    kept = {e.uid for e in look.kept(step(store, "unique"), 10**6)}
    for example in found:
        assert example.evidence in kept
        lines = str(example.diff).splitlines()
        changed = [x for x in lines[2:] if x.startswith(("+", "-"))]
        assert [x[:11] for x in changed] == ["-VERSION = ", "+VERSION = "]


def test_a_copy_of_an_older_corpus_is_a_difference_from_its_file(tmp_path: Path) -> None:
    raw = {"use": "ingest", "shard_bytes": "30k"}
    write(tmp_path / "old/one", {"near.py": documented(random.Random("near"), 9)})
    write(tmp_path / "new/two", {"near.py": documented(random.Random("near"), 9) + "\nX = 1\n"})
    write(tmp_path / "new/two", {"own.py": documented(random.Random("own"), 9)})
    steps = {
        "old": raw | {"source": str(tmp_path / "old")},
        "new": raw | {"source": str(tmp_path / "new")},
        "first": {"use": "dedup", "files": "old"},
        "unique": {"use": "dedup", "files": "new", "against": "first"},
    }
    run(recipe_file(tmp_path / "two.yaml", steps), tmp_path / "store")
    made = runs.artifact(Store(str(tmp_path / "store")), "two", "unique")
    (found,) = look.dropped(made, 10, "near")
    assert str(found.diff).splitlines()[0] == "--- kept one/near.py"
    assert "+X = 1" in str(found.diff)


def test_the_same_question_shows_the_same_files_and_a_seed_others(store: Store) -> None:
    files = [look.kept(step(store, "clean"), 3, seed) for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]


def test_an_unknown_rule_names_those_there_are(store: Store) -> None:
    with pytest.raises(
        RecipeError, match=r"dropped nothing under 'naer'; did you mean 'near'\?.*exact"
    ):
        look.dropped(step(store, "unique"), 1, "naer")


def test_the_command_prints_both_sides_or_their_data(store: Store) -> None:
    words = ["sample", "unique", "--run", "small", "--store", store.uri]
    told = CliRunner().invoke(cli.cli, [*words, "--json", "-n", "2"])
    data = json.loads(told.stdout)
    assert [len(data[side]) for side in ("kept", "dropped")] == [2, 2]
    shown = CliRunner().invoke(cli.cli, [*words, "--dropped", "--rule", "near"]).stdout
    odd = CliRunner().invoke(cli.cli, [*words, "--kept", "--rule", "near"])
    assert "--kept shows no dropped files" in str(odd.exception)
    assert "near.py" in shown
    assert "VERSION" in shown


def test_control_characters_of_a_file_do_not_reach_the_terminal() -> None:
    evil = "x = '\x1b]0;owned\x07'\r\x1b[2J\x9b2J"
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=True, width=100, color_system=None)
    look.tell(
        [], [Example("u", "r\x1b[2J", "p\x07", "Python", "near", 1.0, "\x1b[3J", evil)], console
    )
    assert "\u241b]0;owned" in out.getvalue()
    assert not {"\x07", "\x9b", "\r"} & set(out.getvalue())
    assert "\x1b[2J" not in out.getvalue()
    assert "\x1b]" not in out.getvalue()
