"""Pins down the run report: its numbers are the manifests', it needs no network, nothing that came
from a repository becomes markup, and a run that is half made has a page too.

The documents come from real boxes over generated repositories; scores are laid by a real layer of a
made-up judge, and the manifests of training and evaluation are written by hand.
"""

import html
import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster import curves, findings, report, runs
from cluster.findings import Entry, Metric
from pipeline.core import recipe, runner
from pipeline.core.errors import RecipeError
from pipeline.core.files import verdicts
from pipeline.core.job import Job, total
from pipeline.core.runner import Artifact, Runtime
from pipeline.core.schema import digest
from pipeline.core.store import Store
from pipeline.model.evidence import Chosen, Doc, evidence

RECIPE = """
steps:
  raw:     {use: ingest, source: SOURCE}
  private: {use: redact, files: raw}
  clean:   {use: filter, files: private, on: {seconds: 5}}
  unique:  {use: dedup, files: clean}
  corpus:  {use: holdout, files: unique, share: 20%}
  vocab:   {use: tokenizer, files: corpus, size: 300}
  tokens:  {use: tokenize, files: corpus, tokenizer: vocab}
  batches: {use: pack, files: tokens, length: 64}
  phase1:  {use: train, data: batches, tokenizer: vocab}
  judge:   {use: annotator, negatives: tokens, tokenizer: vocab, rule: 50%}
  scored:  {use: annotate, files: tokens, annotator: judge}
  best:    {use: select, files: scored, budget: 5e1}
  phase2:  {use: train, data: batches, tokenizer: vocab, start: phase1}
  scores:  {use: evaluate, models: {alpha: phase1, final: phase2}, heldout: corpus}
"""
LATER = {
    "phase1": "train",
    "judge": "annotator",
    "scored": "annotate",
    "best": "select",
    "phase2": "train",
    "scores": "evaluate",
}
EVIL = "<script>alert(1)</script>"
BITS = {"ordinary": 2.5, "quality": 2.25, "exercises": 1.75}
MIDDLE = {"with_suffix": 3.0, "without_suffix": 3.25, "middles": 30}
RANKING = {"accuracy": 0.6, "pairs": 164, "interval": [0.52, 0.67], "too_long": 0}
PASS = {"pass@1": 0.0, "passed": 0, "tasks": 41, "interval": [0.0, 0.09], "tier": "landlock"}
MODEL = {"bits_per_byte": BITS, "middle": MIDDLE, "ranking": RANKING, "pass_at_1": PASS}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run `small` made up to its tokens."""
    folder = tmp_path_factory.mktemp("report")
    repositories(folder / "src")
    path = folder / "small.yaml"
    path.write_text(RECIPE.replace("SOURCE", str(folder / "src")))
    made = recipe.load(str(path), overrides=["corpus.share=25%"])
    out = Store(str(folder / "store"))
    planned = runner.plan(made, out, until="tokens")
    list(runner.run(made, out, planned, Runtime(0, lambda: None, print)))
    runs.record(out, made, runner.plan(made, out), ["laptop"], ["corpus.share=25%"])
    return out


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A copy of it in which everything is made."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    shutil.copytree(store.uri, folder)
    out = Store(str(folder))
    finish(out, [4.0, 3.0, float("nan"), 2.0], {"alpha": MODEL, "final": MODEL})
    return out


def repositories(folder: Path) -> None:
    """Five repositories of Python and JavaScript, one file named like markup, one twice."""
    for r in range(5):
        for f in range(4):
            body = "\n".join(
                f"def part_{r}_{f}_{i}(x):\n    return x + {r * f + i}\n" for i in range(9)
            )
            write(folder / f"repo{r}" / f"part{f}.py", f"# by someone{r}@site.net\n{body}")
        write(
            folder / f"repo{r}" / "app.js",
            f"function go{r}(xs) {{\n  return xs.map(x => x * {r});\n}}\n",
        )
    write(
        folder / "repo0" / "<img src=x>.py", f'TEXT = "{EVIL}"\n\n\ndef evil():\n    return TEXT\n'
    )
    write(folder / "repo1" / "copy.py", (folder / "repo2" / "part1.py").read_text())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def by_hand(
    store: Store, name: str, inputs: dict[str, str], facts: dict[str, Any], **more: Any
) -> str:
    """A manifest and pointer of a step whose box is not run here; gives its key."""
    stage, key = LATER[name], digest(name)[:12]
    manifest: dict[str, Any] = {
        "step": name, "stage": stage, "key": key, "identity": {"inputs": inputs, "version": 1},
        "parent": None, "base": None, "layers": [], "rows": None, "facts": facts,
        "digest": digest(name), "bytes": 10, "seconds": 2.0, "budget": None,
        "kept_shards": 0, "versions": {"numpy": "0.0"}, "made": "2030-01-01T00:00:00+00:00",
    }  # fmt: skip
    store.create(json.dumps(manifest | more).encode(), stage, key, "manifest.json")
    store.replace(
        json.dumps({"stage": stage, "key": key}).encode(), "runs", "small", f"{name}.json"
    )
    told = json.loads(store.read("runs", "small", "run.json"))
    told["keys"][name] = key
    store.replace(json.dumps(told).encode(), "runs", "small", "run.json")
    return key


def finish(store: Store, losses: Sequence[float], models: dict[str, Any]) -> None:
    """Make LATER: two phases with these losses, a real layer of scores, a choice, results."""
    tokens = runs.artifact(store, "small", "tokens")
    facts = {
        "model": "tiny",
        "steps": len(losses),
        "tokens": 32,
        "tokens_seen": 32,
        "epochs": 2,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }
    first = by_hand(store, "phase1", {}, facts)
    second = by_hand(store, "phase2", {"start": first}, facts | {"tokens_seen": 64})
    for key in (first, second):
        lines = [
            {
                "step": i,
                "loss": loss,
                "lr": 0.001,
                "grad_norm": 1.0,
                "tokens": 8 * (i + 1),
                "skipped": i % 2,
                "tokens_per_s": 100.0,
            }
            | ({"heldout": {"Python": 3.0 - i, "C++": 4.0}} if i % 2 else {})
            for i, loss in enumerate(losses)
        ]
        store.create("\n".join(map(json.dumps, lines)).encode(), "train", key, "metrics.jsonl")
        row = {"phase": "p", "step": 4, "tokens": 32, "loss": 2.0, "path": "checkpoints/step-4"}
        store.create(json.dumps([row]).encode(), "train", key, "checkpoints.json")
    job = Job(
        store=store, step="scored", stage="annotate", version=1, key="k", identity={}, workers=0,
        processes=1, connect=lambda: None, launch=print,
    )  # fmt: skip
    job.layer(tokens.files, judged, ["text"], kind="scores")
    rows = total(r["counts"] for r in job.layers[0]["shards"])
    parent = {"stage": "tokenize", "key": tokens.key}
    by_hand(store, "judge", {}, evidence_of_a_judge())
    by_hand(store, "scored", {"files": tokens.key}, {}, layers=job.layers, parent=parent, rows=rows)
    python = {"files": 2, "tokens": 70, "of_tokens": 1400, "lowest": 0.75}
    by_hand(store, "best", {}, {"languages": {"Python": python}, "tokens": 70})
    by_hand(
        store, "scores", {"models": second}, {"models": models, "texts": dict.fromkeys(BITS, 7)}
    )


def evidence_of_a_judge() -> dict[str, Any]:
    """The facts of an annotator with a proof, over files whose good ones score higher."""
    docs = [
        Doc(f"u{k}", f"x = {k}\n", f"r{k}", f"{k} {EVIL}.py", "Python" if k % 4 else "Ruby")
        for k in range(80)
    ]
    scores = {d.uid: k / 100 + 0.1 * (k % 2) for k, d in enumerate(docs)}
    chosen = Chosen([], [], docs[40:60], docs[:40], docs[:30], docs[60:])
    return {"train": {"good": 9, "corpus": 9}} | evidence(chosen, scores)


def judged(table: pa.Table) -> pa.Table:
    """A quality between 0 and 1 that depends on the text alone."""
    values = [int(digest(text)[:4], 16) / 65536 for text in table["text"].to_pylist()]
    return verdicts(table["uid"], [None] * len(table), quality=pa.array(values, pa.float32()))


class Page(HTMLParser):
    """The tags of a page with their attributes, the text it shows, and its script blocks."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[str] = []
        self.shown = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.blocks += [data] if self.tags[-1][0] == "script" and data.strip() else []
        else:
            self.shown += data
        self.shown = re.sub(r"\s+", " ", self.shown)


def page_of(store: Store) -> Page:
    path = report.write(store, "small")
    assert path == store.path("runs", "small", "report.html")
    return Page(Path(path).read_text())


def steps_of(store: Store) -> list[Entry]:
    return findings.entries(store, "small", json.loads(store.read("runs", "small", "run.json")))


def test_half_made_run_has_a_page_that_names_what_is_missing(store: Store) -> None:
    page = page_of(store)
    assert "phase1 (not made yet)" in page.shown
    assert "evaluation is not made yet" in page.shown
    assert "every file is accounted for" in page.shown.lower()
    assert "icefloe run small --with laptop corpus.share=25%" in page.shown


def test_recipe_on_the_page_is_the_one_that_ran(store: Store, tmp_path: Path) -> None:
    page = Path(report.write(store, "small")).read_text()
    told = re.search(r"<pre>(steps:.*?)</pre>", page, re.S)
    assert told is not None
    path = tmp_path / "small.yaml"
    path.write_text(html.unescape(told[1]))
    again = runner.plan(recipe.load(str(path)), store, until="tokens")
    assert [p.why for p in again] == [""] * 7


def test_run_of_which_nothing_is_made_has_a_page(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record: dict[str, Any] = {"recipe": "none", "overlays": [], "overrides": [], "steps": ["raw"]}
    record |= {"raw": {"steps": {"raw": {"use": "ingest", "source": "x"}}}, "started": "2030"}
    store.replace(json.dumps(record).encode(), "runs", "none", "run.json")
    page = Page(Path(report.write(store, "none")).read_text())
    assert "Nothing has been made yet." in page.shown
    assert not [a for _, a in page.tags if a.get("class") == "chart"]


def test_no_run_of_that_name_is_an_error_with_a_near_miss(store: Store) -> None:
    with pytest.raises(RecipeError, match="did you mean 'small'"):
        report.write(store, "smal")


def test_funnel_says_what_the_manifests_and_documents_say(store: Store) -> None:
    rows = findings.funnel(steps_of(store))
    assert [r["name"] for r in rows] == ["raw", "private", "clean", "unique", "corpus", "tokens"]
    assert {r["chain"] for r in rows} == {"raw"}
    for row, before in zip(rows[1:], rows, strict=False):
        files = runs.artifact(store, "small", row["name"]).files
        kept = [n for s in files.shards for n in files.read(s, ["bytes"])["bytes"].to_pylist()]
        assert (row["kept"], row["bytes"]) == (len(kept), sum(kept))
        assert (row["in"], row["before"], row["left"]) == (before["kept"], before["bytes"], 0)
    assert dict(rows[3]["reasons"])["exact"] == 1


def test_whole_run_is_one_page_without_network_or_foreign_markup(whole: Store) -> None:
    page = page_of(whole)
    assert not [a for _, a in page.tags if a.get("src") or (a.get("href") or "#")[0] != "#"]
    assert not {t for t, _ in page.tags} & {"img", "link", "iframe", "object", "base"}
    assert sum(t == "script" for t, _ in page.tags) == 3
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "<img src=x>.py" in page.shown
    assert f'TEXT = "{EVIL}"' in page.shown
    assert "<EMAIL>" in page.shown
    assert "@site.net" not in page.shown


def test_whole_run_shows_results_and_draws_every_chart(whole: Store) -> None:
    page = page_of(whole)
    assert "2.500" in page.shown
    assert "60.0%" in page.shown
    assert "[52.0%, 67.0%]" in page.shown
    assert "phase2from phase1" in page.shown
    data = json.loads(page.blocks[0], parse_constant=pytest.fail)
    assert [p["loss"] for p in data["phases"]] == [[4.0, 3.0, None, 2.0]] * 2
    assert [(p["at"], p["x"]) for p in data["phases"]] == [
        (0, [8, 16, 24, 32]),
        (32, [8, 16, 24, 32]),
    ]
    held = {"x": [16, 32], "bits": {"C++": [4.0, 4.0], "Python": [2.0, 0.0]}}
    assert [p["heldout"] for p in data["phases"]] == [held, held]
    assert [p["skipped"] for p in data["phases"]] == [2, 2]
    assert "2 checkpoints are kept; icefloe export phase1 --step 4 --to FOLDER" in page.shown
    assert re.search(r"phase2 ?4 ?64 ?2.000 ?train/\w+/checkpoints/step-4", page.shown)
    charts = {
        a["id"].removeprefix("chart-")
        for _, a in page.tags
        if a.get("class") == "chart" and a["id"]
    }
    assert charts == {
        "funnel",
        "scores",
        "roc",
        "calibration",
        "classes",
        "curves",
        "heldout",
        "language",
        "licence",
        "seconds",
    }
    for name in charts:
        assert re.search(rf"^  {name}(\(\) {{|: )", page.blocks[2], re.M)


def test_samples_are_the_ends_of_the_ranking_with_edited_text(whole: Store) -> None:
    found = findings.quality(steps_of(whole))
    assert found is not None
    shown = found["samples"]
    files = runs.artifact(whole, "small", "scored").files
    every = sorted(
        q for s in files.shards for q in files.read(s, ["quality"])["quality"].to_pylist()
    )
    assert [f["quality"] for f in shown["lowest"]] == every[:5]
    assert [f["quality"] for f in shown["highest"]] == every[:-6:-1]
    assert sum(row["documents"] for row in found["languages"]) == len(every)
    assert all(sum(row["counts"]) == row["documents"] for row in found["languages"])


def test_the_annotator_is_shown_with_all_it_was_measured_by(whole: Store) -> None:
    facts = evidence_of_a_judge()
    assert facts["gate"] == "proof"
    page = page_of(whole)
    for name, found in facts["measured"].items():
        assert report.rate(found["auc"]) in page.shown, name
        assert report.rate(found["auc_interval"][0]) in page.shown
    assert re.search(r"others ?–", page.shown)
    assert facts["samples"]["best"][0]["repo"] + "/" in page.shown
    data = json.loads(page.blocks[0])["judge"]
    assert data["measured"]["proof"]["roc"] == facts["measured"]["proof"]["roc"]
    assert (report.rate(None), report.rate(0.5), report.rate(0.5, 100)) == ("–", "0.500", "50.0")


def test_step_made_from_inputs_that_were_remade_is_out_of_date(whole: Store) -> None:
    pointer = whole.read("runs", "small", "clean.json")
    try:
        whole.replace(whole.read("runs", "small", "raw.json"), "runs", "small", "clean.json")
        steps = steps_of(whole)
    finally:
        whole.replace(pointer, "runs", "small", "clean.json")
    missing = [s.name for s in steps if s.missing.startswith("out of date")]
    assert missing == ["unique", "corpus", "vocab", "tokens", "scored"]


def test_mix_adds_up_and_groups_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "LARGEST", 1)
    tokens = runs.artifact(store, "small", "tokens")
    found = findings.mix([Entry("tokens", "tokenize", tokens)])["language"]
    assert [p["name"] for p in found] == ["Python", "1 others"]
    assert sum(p["tokens"] for p in found) == tokens.facts["tokens"]
    assert sum(p["documents"] for p in found) == tokens.manifest["rows"]["kept"]


@pytest.mark.parametrize(
    ("values", "intervals", "lower", "best"),
    [
        ([2.5, 2.4], [None, None], True, 1),
        ([2.5, 2.4], [None, None], False, 0),
        ([2.4001, 2.4002], [None, None], True, None),
        ([0.5, 0.9], [[0.4, 0.6], [0.8, 0.95]], False, 1),
        ([0.5, 0.6, 0.1], [[0.4, 0.6], [0.5, 0.7], [0.0, 0.2]], False, None),
        ([None, 2.4], [None, None], True, None),
        ([0.0, 0.0], [[0.0, 0.1], [0.0, 0.1]], False, None),
    ],
)
def test_best_is_marked_only_where_it_is_apart(
    values: Any, intervals: Any, lower: bool, best: int | None
) -> None:
    assert findings.winner(values, intervals, Metric("", "", lower)) == best


def test_results_leave_out_what_was_not_measured(store: Store) -> None:
    models = {"alpha": MODEL | {"middle": None}, "final": MODEL | {"middle": None}}
    facts = {"models": models, "texts": {"ordinary": 3}}
    scored = Entry("scores", "evaluate", partial_artifact(store, facts))
    found = findings.results([scored])
    assert found is not None
    assert [r["key"] for r in found["rows"]] == [
        "ordinary",
        "quality",
        "exercises",
        "accuracy",
        "pass@1",
    ]
    assert found["rows"][0]["n"] == [3]
    assert found["tiers"] == ["landlock"]


def partial_artifact(store: Store, facts: dict[str, Any]) -> Artifact:
    """An artifact with nothing but facts."""
    key = digest(json.dumps(facts))[:12]
    store.create(json.dumps({"facts": facts}).encode(), "evaluate", key, "manifest.json")
    return Artifact(store, "evaluate", key)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    each = {"lr": 1e-3, "tokens_per_s": 10.0, "skipped": 0}
    lines = [each | {"loss": float(i), "tokens": i, "heldout": {"C": 1.0}} for i in range(10_000)]
    told = curves.curves(lines)
    assert len(told["x"]) == len(told["loss"]) == curves.POINTS
    assert (told["loss"][0], told["loss"][-1], told["length"]) == (0, 9999, 9999)
    assert len(told["heldout"]["x"]) <= curves.POINTS * 2
    assert (told["heldout"]["x"][0], told["heldout"]["x"][-1]) == (0, 9999)


def test_smoothing_is_the_mean_of_what_is_there() -> None:
    assert curves.smoothed(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]
    assert curves.smoothed(np.array([]), 1).tolist() == []


def test_start_cuts_long_files_and_long_lines() -> None:
    text = findings.start("\n".join(["x" * 500] * 100))
    assert text.splitlines()[0] == "x" * findings.WIDTH + " …"
    assert text.endswith("… 60 more lines")
    assert findings.start("a\nb\n") == "a\nb"


def test_numbers_for_people() -> None:
    assert [report.short(n) for n in (7, 1234, 12_500_000_000)] == ["7", "1.23 k", "12.5 B"]
    assert [report.size(n) for n in (7, 8_640_000, 5e9)] == ["7 B", "8.64 MB", "5 GB"]
    assert [report.duration(s) for s in (9.44, 192, 7500, 59.97)] == [
        "9.4 s",
        "3 min 12 s",
        "2 h 05 min",
        "1 min 00 s",
    ]
