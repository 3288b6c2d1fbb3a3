"""Labels: every answer is paid once, whatever is killed, fails or runs out; what is no label is
quarantined with its raw text; secrets stay out of the store; files of labels find their documents.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import label
from pipeline.core import recipe, runner
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.store import Store
from tests.corpus import write
from tests.judge import TOKENS, Said, completion, grade, judge, slow
from tests.running import bare_job, recipe_file, stored

ROOT = Path(__file__).parents[2]
ONCE = {"backoff": 0.001, "model": "judge-1", "concurrency": 4}
Rows = list[dict[str, Any]]


def documents(count: int = 24) -> Rows:
    """Three of four in Python, one in C; two texts that are the same."""
    rows = [
        {"text": f"def f{n}():\n    return {n}\n", "repo": f"r{n % 5}", "path": f"f{n}.py"}
        | ({"language": "C"} if n % 4 == 0 else {})
        for n in range(count - 1)
    ]
    return [*rows, rows[1] | {"path": "copy.py"}]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return stored(documents(), Store(str(tmp_path / "store")), 3)


def labelled(files: Files, key: str = "k", /, **settings: Any) -> Job:
    job = bare_job(files.store, "label", key)
    label.run(files, label.Config(**{**ONCE, **settings}), job)
    return job


def table(job: Job, name: str = "labels") -> Rows:
    return pq.read_table(job.folder / f"{name}.parquet").to_pylist()


def flaky(first: Said, times: int = 1) -> Callable[[str, int], Said]:
    return lambda text, nth: first if nth <= times else completion(grade(text))


def test_every_text_is_asked_once_and_labelled(files: Files) -> None:
    with judge() as model:
        job = labelled(files, endpoint=model.url, price_in=2.0, price_out=10.0)
        found = table(job)
        assert [r["uid"] for r in found] == sorted(r["uid"] for r in found)
        texts = {r["path"]: r["text"] for r in documents()}
        assert {r["path"]: r["label"] for r in found} == {
            p: json.loads(grade(t))["label"] for p, t in texts.items()
        }
        assert set(model.paid) == set(texts.values())
        assert set(model.paid.values()) == {1}
    facts = job.facts
    assert facts["rows"] == {"in": 24, "kept": 24, "dropped": {}, "quarantined": 0, "rules": {}}
    assert facts["languages"] == {"C": 6, "Python": 18}
    assert sum(facts["histogram"].values()) == 24
    assert (facts["requests"], facts["tokens_in"], facts["tokens_out"]) == (23, 23 * 40, 23 * 7)
    assert facts["cost"] == pytest.approx(23 * (40 * 2 + 7 * 10) / 1e6)


def test_the_request_is_the_published_form(files: Files) -> None:
    with judge() as model:
        labelled(
            files,
            endpoint=model.url,
            sample=1,
            scale=(1, 9),
            body={"max_tokens": None, "max_completion_tokens": 50},
        )
        (seen,) = model.seen
    assert seen["path"] == "/v1/chat/completions"
    body = seen["body"]
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("judge-1", 0, 50)
    assert "max_tokens" not in body
    assert "from 1 (" in body["messages"][0]["content"]
    assert "to 9 (" in body["messages"][0]["content"]


def test_another_step_pays_only_for_what_is_new(files: Files) -> None:
    with judge() as model:
        labelled(files, endpoint=model.url, sample=10)
        assert model.paid.total() == 10
        more = labelled(files, "k2", endpoint=model.url, timeout=7)
        assert set(model.paid.values()) == {1}
        labelled(files, "k3", endpoint=model.url, model="judge-2", sample=4)
        assert model.asked.total() == 23 + 4
    again = labelled(files, "k4", endpoint="http://127.0.0.1:9/v1")
    assert table(again) == table(more)


def test_the_sample_is_spread_over_languages_and_shards_do_not_matter(tmp_path: Path) -> None:
    found = []
    with judge() as model:
        for shards in (1, 4):
            files = stored(documents(60), Store(str(tmp_path / f"store{shards}")), shards)
            job = labelled(files, endpoint=model.url, sample=20)
            found.append((job.folder / "labels.parquet").read_bytes())
            assert job.facts["languages"] == {"C": 10, "Python": 10}
    assert found[0] == found[1]


def child(config: str, store: Path) -> subprocess.Popen[bytes]:
    code = f"from pathlib import Path; from tests.running import run; run({config!r}, Path({str(store)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("after", [3, 17])
def test_killed_and_run_again(tmp_path: Path, after: int) -> None:
    source = tmp_path / "source"
    for row in documents(40):
        path = source / row["repo"] / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"])
    with judge(slow(0.03)) as model:
        step = {"use": "label", "files": "raw", "endpoint": model.url, **ONCE}
        config = recipe_file(
            tmp_path / "r.yaml", {"raw": {"use": "ingest", "source": str(source)}, "labels": step}
        )
        process = child(config, tmp_path / "store")
        while len(answers(tmp_path / "store")) < after:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.1)  # what the server was at, it counts
        kept = answers(tmp_path / "store")
        before = model.asked.copy()
        assert after <= len(kept) < 39
        assert child(config, tmp_path / "store").wait() == 0
        asked_again = model.seen[before.total() :]
        assert not kept & {s["headers"]["idempotency-key"] for s in asked_again}
        # Only what was under way at the kill may be asked again, under the same idempotency key.
        keys = [s["headers"]["idempotency-key"] for s in model.seen]
        assert len(set(keys)) == 39
        assert len(keys) <= 39 + ONCE["concurrency"]
        assert child(config, tmp_path / "undisturbed").wait() == 0
    made = [
        next((tmp_path / s / "label").glob("*/labels.parquet")) for s in ("store", "undisturbed")
    ]
    assert made[0].read_bytes() == made[1].read_bytes()


def answers(store: Path) -> set[str]:
    return {p.stem for p in (store / "label/answers").glob("*/*.json")}


def test_a_budget_of_requests_stops_and_goes_on(files: Files) -> None:
    with judge() as model:
        with pytest.raises(
            StageError, match=r"9 answers are paid .* of 24 documents .*max_requests"
        ):
            labelled(files, endpoint=model.url, max_requests=9)
        assert model.paid.total() == 9
        with pytest.raises(StageError, match="9 answers are paid"):
            labelled(files, endpoint=model.url, max_requests=9)
        assert model.asked.total() == 9
        job = labelled(files, endpoint=model.url, max_requests=23)
        assert set(model.asked.values()) == {1}
        assert job.facts["rows"]["kept"] == 24


@pytest.mark.parametrize("concurrency", [1, 8])
def test_budgets_of_tokens_and_money_are_hard(files: Files, concurrency: int) -> None:
    """The cap holds for the most that a request under way may cost, so it is never passed."""
    with judge() as model:
        caps: list[dict[str, Any]] = [
            {"max_tokens": 2000},
            {"max_cost": 0.002, "price_in": 1.0, "price_out": 1.0},
        ]
        for cap in caps:
            with pytest.raises(StageError, match="the budget ends here"):
                labelled(files, endpoint=model.url, concurrency=concurrency, **cap)
            assert 2000 - 1800 < model.paid.total() * sum(TOKENS) <= 2000


def test_partial_goes_on_with_what_there_is(files: Files) -> None:
    with judge() as model:
        job = labelled(files, endpoint=model.url, max_requests=9, partial=True)
        assert model.paid.total() == 9
    rows = job.facts["rows"]
    assert rows["in"] == 24 == rows["kept"] + rows["dropped"]["over_budget"]


def test_the_budget_is_in_the_key_only_where_it_decides(tmp_path: Path) -> None:
    write(tmp_path / "source", {"repo/f.py": "x = 1\n"})

    def key(**settings: Any) -> str:
        steps = {
            "raw": {"use": "ingest", "source": str(tmp_path / "source")},
            "labels": {"use": "label", "files": "raw", "endpoint": "http://h/v1", "model": "m"}
            | settings,
        }
        made = recipe.load(recipe_file(tmp_path / "r.yaml", steps))
        return runner.plan(made, Store(str(tmp_path / "s")))[-1].key

    assert key() == key(max_requests=5, key_env="KEY", endpoint="https://other/v1", retries=9)
    assert key() != key(model="m2")
    assert key(partial=True, max_requests=5) != key(partial=True, max_requests=6)


@pytest.mark.parametrize(
    "first",
    [
        (500, {}, b"oops"),
        (503, {"retry-after": "0"}, b""),
        (429, {"retry-after": "0"}, b"slow down"),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"slow down"),
        (200, {}, b"<html>a proxy's page</html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": null}]}'),
        (200, {}, b'{"choices": ["text"], "usage": 3}'),
    ],
)
def test_a_server_that_fails_is_asked_again(files: Files, first: Said) -> None:
    with judge(flaky(first)) as model:
        job = labelled(files, endpoint=model.url)
        assert set(model.asked.values()) == {2}
        assert job.facts["rows"]["kept"] == 24


def test_a_rate_limit_is_waited_out(files: Files) -> None:
    """Turned away 50 times at most: only who waits as told gets through."""
    opens = time.monotonic() + 0.4

    def act(text: str, nth: int) -> Said:
        if time.monotonic() < opens:
            return 429, {"retry-after": "0.5"}, b""
        return completion(grade(text))

    with judge(act) as model:
        assert labelled(files, endpoint=model.url, retries=0).facts["rows"]["kept"] == 24
        assert max(model.asked.values()) <= 3


def test_a_wait_of_hours_ends_the_step(files: Files) -> None:
    with (
        judge(flaky((429, {"retry-after": "7200"}, b""))) as model,
        pytest.raises(StageError, match="come back in 7200 s"),
    ):
        labelled(files, endpoint=model.url)


def test_a_stalled_server_is_asked_again(files: Files) -> None:
    def act(text: str, nth: int) -> Said:
        if nth == 1:
            model.stop.wait(20)
        return completion(grade(text))

    with judge(act) as model:
        job = labelled(files, endpoint=model.url, timeout=0.15, sample=4)
        assert job.facts["rows"]["kept"] == 4
        model.stop.set()


def test_a_dead_server_stops_the_step_and_a_new_one_goes_on(files: Files) -> None:
    with judge(lambda text, nth: (500, {}, b"broken")) as model:
        with pytest.raises(
            StageError, match=r"20 of 20 replies .*no_reply: HTTP 500: broken \(2 times\)"
        ):
            labelled(files, endpoint=model.url, retries=1)
        assert model.asked.total() <= 2 * (20 + 2 * ONCE["concurrency"])
    assert answers(Path(files.store.uri)) == set()
    with judge() as model:
        assert labelled(files, endpoint=model.url).facts["rows"]["kept"] == 24


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((401, {}, b"bad key sk-secret"), "refuses the key"),
        ((404, {}, b"no model judge-1"), "no such address or model"),
        ((402, {}, b"pay"), "no money left"),
        ((429, {}, b'{"error": {"code": "insufficient_quota"}}'), "no money left"),
    ],
)
def test_what_no_request_can_mend_stops_at_once(
    files: Files, said: Said, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with judge(lambda text, nth: said) as model:
        with pytest.raises(StageError, match=told) as caught:
            labelled(files, endpoint=model.url, key_env="JUDGE_KEY")
        assert model.asked.total() <= ONCE["concurrency"]
    assert "sk-secret" not in str(caught.value)


def test_a_document_that_the_server_refuses_is_quarantined(files: Files) -> None:
    def act(text: str, nth: int) -> Said:
        return (400, {}, b"too long") if "return 7\n" in text else completion(grade(text))

    with judge(act) as model:
        job = labelled(files, endpoint=model.url)
        assert set(model.asked.values()) == {1}
    (row,) = table(job, "quarantine")
    assert (row["rule"], row["raw"], row["evidence"]) == ("no_reply", None, "HTTP 400: too long")
    assert (job.facts["rows"]["kept"], job.facts["rows"]["quarantined"]) == (23, 1)


def test_bad_answers_are_quarantined_with_their_raw_text_and_not_paid_again(files: Files) -> None:
    bad = {
        "return 2\n": "I would say 4 of 5!",
        "return 3\n": '{"label": 6}',
        "return 5\n": '{"label": -1, "reason": "x"}',
        "return 6\n": None,
    }

    def act(text: str, nth: int) -> Said:
        return completion(next((v for k, v in bad.items() if k in text), grade(text)))

    with judge(act) as model:
        with pytest.raises(StageError, match=r"of 2\d replies are no labels.*quarantine.parquet"):
            labelled(files, endpoint=model.url)
        job = labelled(files, endpoint=model.url, max_failed=0.5)
        assert set(model.asked.values()) == {1}
    found = {r["path"]: (r["rule"], r["raw"]) for r in table(job, "quarantine")}
    assert found == {
        "f2.py": ("no_label", "I would say 4 of 5!"),
        "f3.py": ("outside_scale", '{"label": 6}'),
        "f5.py": ("outside_scale", '{"label": -1, "reason": "x"}'),
        "f6.py": ("no_label", ""),
    }
    assert job.facts["rows"]["rules"] == {"no_label": 2, "outside_scale": 2}
    assert job.facts["rows"]["in"] == 24 == job.facts["rows"]["kept"] + 4


def test_a_scale_that_was_wrong_costs_nothing_to_mend(files: Files) -> None:
    """Raw answers are kept, not labels: the same question read on another scale is not paid again."""
    with judge(lambda text, nth: completion("7")) as model:
        with pytest.raises(StageError, match="7 is not from 0 to 5"):
            labelled(files, endpoint=model.url, prompt="Grade it.")
        paid = model.paid.total()
        labelled(files, endpoint=model.url, prompt="Grade it.", scale=(0, 10))
        assert model.asked.total() == 23
        assert paid <= 23


def test_odd_answers_are_kept_as_text(files: Files) -> None:
    with judge(lambda text, nth: completion('{"label": 2, "reason": "\ud800"}')) as model:
        job = labelled(files, endpoint=model.url, sample=2)
    assert {r["answer"] for r in table(job)} == {'{"label": 2, "reason": "?"}'}


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": "many"}, {"prompt_tokens": -1, "completion_tokens": 2}]
)
def test_servers_that_do_not_count_are_counted_for(files: Files, usage: Any) -> None:
    with judge(lambda text, nth: completion("3", usage=usage)) as model:
        job = labelled(files, endpoint=model.url, sample=4)
    assert job.facts["estimated"] == 4
    assert job.facts["tokens_in"] > 4 * 200


def test_the_key_is_sent_and_kept_nowhere(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with judge(lambda text, nth: completion('{"label": 1, "reason": "sk-very-secret"}')) as model:
        job = labelled(files, endpoint=model.url, key_env="JUDGE_KEY")
        assert {s["headers"]["authorization"] for s in model.seen} == {"Bearer sk-very-secret"}
    assert {r["answer"] for r in table(job)} == {'{"label": 1, "reason": "<KEY>"}'}
    everything = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert not any(b"sk-very-secret" in data for data in everything)
    assert "sk-very-secret" not in caplog.text + repr(job)


@pytest.mark.parametrize("value", [None, "", "schlüssel"])
def test_a_missing_or_odd_key_is_told_before_anything_is_asked(
    files: Files, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with judge() as model:
        with pytest.raises(StageError, match="environment variable JUDGE_KEY") as caught:
            labelled(files, endpoint=model.url, key_env="JUDGE_KEY")
        assert not model.asked
    assert "schlüssel" not in str(caught.value)


def test_a_redirect_does_not_take_the_key_along(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with (
        judge() as elsewhere,
        judge(lambda text, nth: (307, {"location": elsewhere.url}, b"")) as model,
    ):
        with pytest.raises(StageError, match=f"sends on to {elsewhere.url}"):
            labelled(files, endpoint=model.url, key_env="JUDGE_KEY")
        assert not elsewhere.seen


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "one of `endpoint`"),
        ({"endpoint": "http://h/v1", "labels": "x"}, "one of `endpoint`"),
        ({"endpoint": "http://h/v1"}, "model is None"),
        ({"endpoint": "ftp://h/v1", "model": "m"}, "begins with http"),
        ({"endpoint": "file:///etc/passwd", "model": "m"}, "begins with http"),
        ({"endpoint": "https://u:secret@h/v1", "model": "m"}, "may be secrets"),
        ({"endpoint": "https://h/v1?key=secret", "model": "m"}, "may be secrets"),
        ({"endpoint": "http://h/v1", "model": "m", "scale": (5, 0)}, "scale is"),
        ({"endpoint": "http://h/v1", "model": "m", "max_cost": 1}, "price_in and price_out are 0"),
        ({"endpoint": "http://h/v1", "model": "m", "concurrency": 0}, "concurrency is 0"),
        ({"endpoint": "http://h/v1", "model": "m", "sample": 0}, "sample 0"),
        (
            {"endpoint": "http://h/v1", "model": "m", "body": {"messages": []}},
            "body has 'messages'",
        ),
        ({"labels": "x", "model": "m"}, "model is for a model that is asked"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        label.Config(**settings)
    assert "secret@" not in str(caught.value)
    assert "=secret" not in str(caught.value)


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_labels_from_a_file_by_uid_content_or_path(files: Files, tmp_path: Path) -> None:
    read = pa.concat_tables(
        files.read(s, ["content", "repo", "path", "language"]) for s in files.shards
    ).sort_by("path")
    by_path = {r["path"]: r for r in read.to_pylist()}
    rows = [
        {"uid": by_path["f0.py"]["uid"], "label": 5},
        {"content": by_path["f1.py"]["content"], "label": 2.5},
        {"repo": "r2", "path": "f2.py", "label": 0},
        {"repo": "r2", "path": "f2.py", "label": 0, "note": "twice the same"},
        {"uid": "0" * 32, "label": 1},
    ]
    given = lines(tmp_path / "labels.jsonl", rows)
    job = bare_job(files.store, "label")
    label.run(files, label.Config(labels=given), job)
    assert {r["path"]: r["label"] for r in table(job)} == {
        "f0.py": 5,
        "f1.py": 2.5,
        "copy.py": 2.5,
        "f2.py": 0,
    }
    assert (job.facts["named"], job.facts["elsewhere"]) == (4, 1)
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "labels.parquet")
    job = bare_job(files.store, "label", "k2")
    label.run(files, label.Config(labels=str(tmp_path / "labels.parquet")), job)
    assert [r["label"] for r in table(job)] == [5]


def test_bad_labels_in_a_file_are_quarantined(files: Files, tmp_path: Path) -> None:
    rows: list[Any] = [{"repo": f"r{n % 5}", "path": f"f{n}.py", "label": n % 5} for n in range(20)]
    rows[3]["label"], rows[4]["label"], rows[5]["label"] = 17, "good", True
    rows.append(rows[6] | {"label": 5})
    given = lines(tmp_path / "labels.jsonl", rows)
    with pytest.raises(StageError, match=r"4 of 20 replies are no labels.*Mend the file"):
        label.run(files, label.Config(labels=given), bare_job(files.store, "label"))
    job = bare_job(files.store, "label")
    label.run(files, label.Config(labels=given, max_failed=0.3), job)
    assert {r["path"]: (r["rule"], r["raw"]) for r in table(job, "quarantine")} == {
        "f3.py": ("outside_scale", "17"),
        "f4.py": ("no_label", '"good"'),
        "f5.py": ("no_label", "true"),
        "f6.py": ("two_labels", "1"),
    }
    assert job.facts["rows"]["kept"] == 16


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no rows"),
        ("not json\n", "line 1: not JSON Lines"),
        ('{"label": 3}\n', "row 1: .* needs `label`, and `uid`"),
        ('{"uid": "a"}\n', "row 1"),
        ("3\n", "row 1"),
    ],
)
def test_a_file_that_is_none_of_labels(files: Files, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "l.jsonl").write_text(text)
    with pytest.raises(RecipeError, match=told):
        label.run(
            files, label.Config(labels=str(tmp_path / "l.jsonl")), bare_job(files.store, "label")
        )


def test_a_file_of_another_corpus(files: Files, tmp_path: Path) -> None:
    given = lines(tmp_path / "l.jsonl", [{"uid": "f" * 32, "label": 3}])
    with pytest.raises(StageError, match="names none of the 24 documents"):
        label.run(files, label.Config(labels=given), bare_job(files.store, "label"))
    with pytest.raises(RecipeError, match="no file 'nowhere'"):
        label.fingerprint(label.Config(labels="nowhere"))
