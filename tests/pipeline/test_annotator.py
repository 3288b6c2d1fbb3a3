"""The annotator as a box: which files it learns from, what is kept out, the gate, and bad input."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline import annotator
from pipeline.annotator import Config
from pipeline.core import recipe, runner
from pipeline.core.config import parse
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.store import Store
from pipeline.model.classes import assigned, candidates, classes, cleared
from pipeline.model.evidence import Doc
from tests.running import bare_job, recipe_file, stored
from tests.tiny import tiny_annotator_folder, tiny_tokenizer

SMALL: dict[str, Any] = {
    "window": 24, "hidden": 32, "layers": 1, "epochs": 4, "batch": 8, "lr": 5e-3,
    "held_out": 0.25, "threads": 1, "unseen": 20,
}  # fmt: skip


def good_text(n: int) -> str:
    return f'def area_{n}(width: int, height: int) -> int:\n    """Return the area number {n}."""\n    return width * height * {n}\n'


def plain_text(n: int) -> str:
    return f"x{n}={n};print(x{n},{n * 7},[{n},{n + 1}],sep=',');y{n}=x{n}*{n};z={n}\n"


def corpus(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    return [{"text": plain_text(k), "repo": f"c{k % 12}", **more} for k in range(count)]


def positives(path: Path, count: int = 40, apart: int = 1) -> str:
    lines = [json.dumps({"text": good_text(apart * k), "repo": f"g{k % 10}"}) for k in range(count)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def job(store: Store) -> Job:
    return bare_job(store, "annotator")


class Vocabulary:
    """What a tokenizer step leaves behind, as far as the box looks."""

    def __init__(self, folder: Path) -> None:
        tiny_tokenizer(folder / "tokenizer.json")
        self.folder = folder


def made(
    rows: list[dict[str, Any]], job: Job, folder: Path, step: Files | None = None, **settings: Any
) -> dict[str, Any]:
    """The facts of the box run over these documents."""
    cfg = Config(**SMALL | settings)
    annotator.run(stored(rows, job.store), Vocabulary(folder), cfg, job, step)  # type: ignore[arg-type]
    return job.facts


def test_it_learns_to_tell_them_and_says_so_in_facts_and_card(job: Job, tmp_path: Path) -> None:
    facts = made(corpus(), job, tmp_path, positives=(positives(tmp_path / "p.jsonl"),))
    assert facts["auc"] > 0.9
    assert facts["gate"] == "held_out"
    assert facts["train"] == {"good": 32, "corpus": 30}
    card = json.loads((job.folder / "annotator.json").read_text())
    assert (card["kind"], card["column"], card["window"]) == ("encoder", "quality", 24)
    assert card["auc"] == facts["auc"]
    assert card["measured"] == facts["measured"]
    assert [r["score"] for r in card["samples"]["best"]] == sorted(
        (r["score"] for r in card["samples"]["best"]), reverse=True
    )
    assert all("text" not in r for r in card["samples"]["worst"])
    assert facts["samples"]["best"][0]["text"].startswith("def area_")


def test_proof_is_measured_apart_and_never_learnt_from(job: Job, tmp_path: Path) -> None:
    """Three positives are proof files too, one as part of a longer answer."""
    proof = tmp_path / "proof.jsonl"
    proof.write_text("\n".join(json.dumps({"text": good_text(k)}) for k in (0, 1, 2, 100, 101)))
    path = positives(tmp_path / "p.jsonl")
    with open(path, "a") as f:
        f.write("\n" + json.dumps({"text": "# see\n" + good_text(100), "repo": "g0"}))
    facts = made(corpus(), job, tmp_path, positives=(path,), proof=(str(proof),))
    assert facts["gate"] == "proof"
    assert facts["measured"]["proof"]["good"] == 5
    assert facts["auc"] == facts["measured"]["proof"]["auc"] > 0.9
    assert facts["counts"]["have_a_proof"] == 4
    assert facts["measured"]["held_out"]["good"] + facts["train"]["good"] == 41 - 4


def test_below_min_auc_it_stops_with_the_evidence(job: Job, tmp_path: Path) -> None:
    rows = [{"text": good_text(2 * k + 1), "repo": f"c{k % 12}"} for k in range(80)]
    path = positives(tmp_path / "p.jsonl", 60, apart=2)
    with pytest.raises(StageError) as caught:
        made(rows, job, tmp_path, positives=(path,), min_auc=0.99)
    said = str(caught.value)
    for part in ("ROC-AUC on held-out repositories, 0.", " good against ", "worst language: Python",
                 "matched in size and comments", "annotator.json", "min_auc 0.99"):  # fmt: skip
        assert part in said
    assert json.loads((job.folder / "annotator.json").read_text())["auc"] < 0.99


def test_no_repository_is_on_both_sides(job: Job, tmp_path: Path) -> None:
    rows = corpus(90)
    cfg = Config(**SMALL, positives=(positives(tmp_path / "p.jsonl"),), files=30)
    chosen = classes(stored(rows, job.store), None, cfg, job)
    learnt = {d.repo for d in chosen.good + chosen.corpus}
    aside = {d.repo for d in chosen.held_good + chosen.held_corpus + chosen.unseen}
    assert learnt
    assert aside
    assert not learnt & aside
    assert 0 < len(chosen.unseen) <= 20
    assert {d.uid for d in chosen.unseen} <= {d.uid for d in chosen.held_corpus}


def test_shards_and_order_do_not_matter(tmp_path: Path) -> None:
    rows, found = corpus(80), []
    cfg = Config(**SMALL | {"unseen": 5}, positives=(positives(tmp_path / "p.jsonl"),), files=12)
    for shards in (1, 4):
        job = bare_job(Store(str(tmp_path / f"s{shards}")), "annotator")
        chosen = classes(stored(rows, job.store, shards), None, cfg, job)
        found.append({k: [d.uid for d in v] for k, v in vars(chosen).items()})
    assert found[0] == found[1]


def test_what_is_in_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    cfg = Config(**SMALL | {"unseen": 5}, rule=0.4, files=5)
    sizes = []
    for count in (400, 1600):
        job = bare_job(Store(str(tmp_path / str(count))), "annotator")
        sizes.append(len(candidates(stored(corpus(count), job.store, 4), 0, cfg, job)))
    assert sizes[1] < 1.5 * sizes[0] < 200


def test_rule_takes_documented_files_of_the_corpus_and_not_as_negatives(job: Job) -> None:
    documented = "".join(good_text(k) for k in range(3))
    rows = corpus(40) + [
        {"text": f"# {k}\n{documented}", "repo": f"c{k % 12}", "path": f"d{k}.py"}
        for k in range(24)
    ]
    cfg = Config(**SMALL, rule=0.4)
    chosen = classes(stored(rows, job.store), None, cfg, job)
    assert all(d.path.startswith("d") for d in chosen.good + chosen.held_good)
    assert not any(d.path.startswith("d") for d in chosen.corpus + chosen.held_corpus)
    assert any(d.path.startswith("d") for d in chosen.unseen)


def test_positives_may_be_another_step_s_documents(job: Job, store: Store) -> None:
    step = stored([{"text": good_text(k), "repo": f"g{k % 10}"} for k in range(40)], store)
    chosen = classes(stored(corpus(), store), step, Config(**SMALL), job)
    assert {d.text for d in chosen.good + chosen.held_good} == {good_text(k) for k in range(40)}


def test_a_text_that_is_good_elsewhere_is_no_negative() -> None:
    docs = {u: Doc(u, t, "r", "p", "Python") for u, t in (("a", "x = 1"), ("b", "x  =  1\n"))}
    counts: Counter[str] = Counter()
    assert cleared(docs, {"a"}, [], counts) == {"a"}
    assert counts == {"corpus_also_good": 1}


def test_repositories_of_the_proof_are_not_learnt_from(job: Job, tmp_path: Path) -> None:
    proof = tmp_path / "proof.jsonl"
    proof.write_text(json.dumps({"text": good_text(500), "repo": "g1"}))
    cfg = Config(**SMALL, positives=(positives(tmp_path / "p.jsonl"),), proof=(str(proof),))
    chosen = classes(stored(corpus(), job.store), None, cfg, job)
    assert "g1" not in {d.repo for d in chosen.good + chosen.held_good}


def test_each_text_is_taken_once(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"text": good_text(k % 20)}) for k in range(60)))
    chosen = classes(
        stored(corpus(), job.store), None, Config(**SMALL, positives=(str(path),)), job
    )
    assert len(chosen.good + chosen.held_good) == 20
    assert job.facts["counts"]["repeated"] == 40


def test_a_language_of_three_files_is_told_under_others(job: Job, tmp_path: Path) -> None:
    rows = corpus(60) + [
        {"text": f"puts {k}\n", "language": "Ruby", "repo": f"c{k}"} for k in range(3)
    ]
    facts = made(
        rows, job, tmp_path, positives=(positives(tmp_path / "p.jsonl", 60),), held_out=0.5
    )
    names = [r["name"] for r in facts["measured"]["held_out"]["languages"]]
    assert names in (["Python"], ["Python", "others"])


def test_one_repository_only_is_named(job: Job, tmp_path: Path) -> None:
    rows = [r | {"repo": "one"} for r in corpus()]
    with pytest.raises(StageError, match=r"corpus files .* there are 40 in 1 repositories"):
        made(rows, job, tmp_path, positives=(positives(tmp_path / "p.jsonl"),))


def test_a_rule_that_no_file_meets_is_named(job: Job, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"no good file: 60 documents were looked at and `rule` 0.9 is met"
    ):
        made(corpus(), job, tmp_path, rule=0.9)


def test_positives_that_are_all_proof_are_named(job: Job, tmp_path: Path) -> None:
    path = positives(tmp_path / "p.jsonl", 8)
    proof = tmp_path / "proof.jsonl"
    proof.write_text("\n".join(json.dumps({"text": good_text(k)}) for k in range(8)))
    with pytest.raises(StageError, match=r"no good file is left .*'have_a_proof': 8"):
        made(corpus(), job, tmp_path, positives=(path,), proof=(str(proof),))


def test_no_positives_at_all_is_refused_before_anything_runs(tmp_path: Path) -> None:
    steps = {
        "raw": {"use": "ingest", "source": str(tmp_path)},
        "vocab": {"use": "tokenizer", "files": "raw"},
        "judge": {"use": "annotator", "negatives": "raw", "tokenizer": "vocab"},
    }
    with pytest.raises(RecipeError, match=r"step judge: a class without files: name `positives`"):
        recipe.load(recipe_file(tmp_path / "r.yaml", steps))
    steps["judge"]["positives_from"] = "raw"
    assert recipe.load(recipe_file(tmp_path / "r.yaml", steps))


def test_an_encoder_folder_is_checked_and_part_of_the_key(tmp_path: Path) -> None:
    folder = tiny_annotator_folder(tmp_path / "base", window=32)
    cfg = {"rule": 0.4, "encoder": str(folder)}
    before = annotator.fingerprint(Config(**cfg, window=32))
    with pytest.raises(RecipeError, match=r"window is 64; .*base has 32 positions"):
        annotator.fingerprint(Config(**cfg, window=64))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match="base has no tokenizer"):
        annotator.fingerprint(Config(**cfg, window=32))
    (folder / "vocab.txt").write_text("a\nb\n")
    assert annotator.fingerprint(Config(**cfg, window=32)) != before
    (folder / "config.json").unlink()
    with pytest.raises(RecipeError, match=r"base has no config\.json"):
        annotator.fingerprint(Config(**cfg, window=32))


def test_proof_that_is_not_there_is_named_in_the_plan(store: Store, tmp_path: Path) -> None:
    steps = {
        "raw": {"use": "ingest", "source": str(tmp_path)},
        "vocab": {"use": "tokenizer", "files": "raw"},
        "judge": {"use": "annotator", "negatives": "raw", "tokenizer": "vocab", "rule": 0.4,
                  "proof": ["iceflow"]},
    }  # fmt: skip
    made = recipe.load(recipe_file(tmp_path / "r.yaml", steps))
    with pytest.raises(RecipeError, match="no suite 'iceflow'; did you mean 'icefloe'"):
        runner.plan(made, store)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"files": 0}, "files is 0: 1 or more"),
        ({"unseen": 0}, "unseen is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": 2}, "lr is 2"),
        ({"mlm_steps": 5}, "no setting 'mlm_steps'"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(Config, {"rule": 0.4} | settings, "annotator")


def test_sides_take_each_file_once() -> None:
    good = [Doc(f"g{k}", "", f"r{k}", "", "Python") for k in range(20)]
    rows = [
        {"uid": f"c{k}", "repo": f"s{k}", "key": k, "good": k % 5 == 0, "random": k < 50}
        for k in range(100)
    ]
    sides = assigned(good, rows, Config(**SMALL | {"unseen": 10}, rule=0.4, files=25))
    assert len(sides["good"]) + len(sides["held_good"]) == 25
    assert len(sides["corpus"]) == len(set(sides["corpus"]))
    assert not set(sides["corpus"]) & set(sides["held_corpus"]) | set(sides["good"]) & set(
        sides["unseen"]
    )
    assert all(int(u[1:]) < 50 for u in sides["unseen"] + sides["held_corpus"] + sides["corpus"])
