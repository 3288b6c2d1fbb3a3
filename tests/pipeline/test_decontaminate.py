"""Suites in every form they come in, what is no suite, the evidence of hits; and on published tasks
and installed code: copies are found, ordinary files stay.
"""

import ast
import gzip
import io
import json
import sysconfig
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import decontaminate
from pipeline.core import suites
from pipeline.core.config import parse
from pipeline.core.errors import RecipeError
from pipeline.core.store import Store, read_parquet
from pipeline.decontaminate import Config, judge, run, tasks
from tests.running import bare_job, stored

EVALDATA = Path(__file__).parents[3] / "shared" / "evaldata"
PUBLISHED = (
    "HumanEval.jsonl.gz",
    "HumanEvalPlus-NoExtreme-v0.1.10.jsonl.gz",
    "MbppPlus-NoExtreme-v0.2.0.jsonl.gz",
    "mbpp.jsonl",
    "sanitized-mbpp.canonical.json",
)
published = pytest.mark.skipif(
    not EVALDATA.is_dir(), reason=f"evaluation data is not at {EVALDATA}"
)
TASK = {
    "task_id": "t/7",
    "prompt": 'def melt(floes, degrees):\n    """Return the floes that stay frozen at so many degrees."""\n',
    "canonical_solution": "    left = [f for f in floes if f.melting > degrees]\n    return sorted(left)\n",
    "test": "def check(candidate):\n    assert candidate([], 3) == []\n",
}


def write(folder: Path, name: str, rows: list[Any]) -> Path:
    """A suite file in the form that its name's end says."""
    path = folder / name
    lines = "\n".join(map(json.dumps, rows)).encode()
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        raw = json.dumps(rows).encode() if ".json." in f"{name}." else lines
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def verdicts(texts: list[str], *suites: Path, **settings: Any) -> list[dict[str, Any]]:
    cfg = Config(suites=tuple(map(str, suites)), **settings)
    table = pa.table({"uid": [str(i) for i in range(len(texts))], "text": texts})
    return judge(table, cfg, decontaminate._found(cfg)).to_pylist()


@pytest.mark.parametrize(
    "name", ["s.jsonl", "s.jsonl.gz", "s.json", "s.json.gz", "s.parquet", "s.txt"]
)
def test_suites_come_in_several_forms(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, [TASK, TASK | {"task_id": "t/8"}])
    texts = tasks(path)
    assert [(t.suite, t.task) for t in texts] == [(name, "t/7")] * 4 + [(name, "t/8")] * 4
    assert [t.part for t in texts[:4]] == ["prompt", "docstring", "solution", "test"]
    assert texts[1].text == "Return the floes that stay frozen at so many degrees."


def test_columns_of_the_known_suites(tmp_path: Path) -> None:
    rows = [
        {"question_id": 3, "question_content": "How many floes?", "starter_code": "class A:"},
        {"problem_id": 4, "question": "Q", "solutions": '["one()", "two()"]', "input_output": "{}"},
        {"text": "Write it.", "code": "x[0]", "test_list": ["assert a", "assert b", " "]},
        {"prompt": "[1, 2]", "reference_code": "[f(x) for x in y]", "metadata": {}},
    ]
    got = [(t.task, t.part, t.text) for t in tasks(write(tmp_path, "s.jsonl", rows))]
    assert got == [
        ("3", "prompt", "How many floes?"),
        ("4", "prompt", "Q"),
        ("4", "solution", "one()"),
        ("4", "solution", "two()"),
        ("3", "prompt", "Write it."),
        ("3", "solution", "x[0]"),
        ("3", "test", "assert a"),
        ("3", "test", "assert b"),
        ("4", "solution", "[f(x) for x in y]"),
    ]


def test_an_infilling_task_is_the_program_it_is_cut_from(tmp_path: Path) -> None:
    whole = TASK["prompt"] + TASK["canonical_solution"]
    cut = TASK | {"prompt": whole[:60], "canonical_solution": whole[60:99], "suffix": whole[99:]}
    texts = tasks(write(tmp_path, "s.jsonl", [cut]))
    assert [(t.part, t.text) for t in texts[:2]] == [
        ("solution", whole),
        ("docstring", "Return the floes that stay frozen at so many degrees."),
    ]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("s.jsonl", b"", "no task in it"),
        ("s.json", b"[]", "no task in it"),
        ("s.jsonl", b'{"prompt": "a"}\n{"a": 1}\n', "row 2: none of the columns prompt, complete"),
        ("s.jsonl", b'{"prompt": " "}\n', "row 1: none of the columns"),
        ("s.jsonl", b'{"prompt": "a"}\n\n{"prompt"\n', "line 3: not JSON"),
        ("s.json", b'[{"prompt": "a"}, 7]', "row 2: '7' is no task"),
        ("s.json", b'[{"prompt": "a"},', "s.json: not JSON"),
        ("s.jsonl", b"\xff\xfe", "not UTF-8"),
        ("s.jsonl.gz", b"not gzip", "not a gzip file"),
        ("s.jsonl.gz", gzip.compress(b'{"prompt": "a"}', mtime=0)[:-9], "not a gzip file"),
        ("s.parquet", b"PAR1", "not a Parquet file"),
    ],
)
def test_what_is_no_suite_says_where(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(RecipeError, match=message) as e:
        tasks(tmp_path / name)
    assert name in str(e.value)


def test_an_unknown_suite_is_refused_with_a_near_miss() -> None:
    assert suites.find("icefloe", "here").is_absolute()
    with pytest.raises(RecipeError, match="did you mean 'icefloe'"):
        suites.find("icefloo", "here")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"suites": []}, "suites is empty"),
        ({"shortest": 7}, "shortest is 7: 8 to 1,000"),
        ({"words": 3}, "words is 3: 4 to 100"),
        ({"words": 5, "fewest_words": 5}, "fewest_words is 5: 2 to 4"),
        ({"tokens": 201}, "tokens is 201: 8 to 200"),
        ({"share": 0}, "share is 0.0: above 0"),
        ({"common": 0}, "common is 0: 1 to"),
        ({"substring": False, "ngram": False, "renamed": False}, "all off"),
    ],
)
def test_settings_have_bounds(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(Config, {"suites": ["icefloe"]} | settings, "here")


def test_the_evidence_names_suite_task_part_and_lines(tmp_path: Path) -> None:
    suite = write(tmp_path, "s.jsonl", [TASK])
    solution = TASK["canonical_solution"]
    renamed = "import os\n\ndef gé(a, b):\n    # é\n    c = [d for d in a if d.e > b]\n    return sorted(c)\n"
    texts = ["é\n\n" + solution, "é = 1", "# that stay frozen\n# at so many degrees:", renamed]
    first, second, third, fourth = verdicts(texts, suite, fewest_words=7, words=8)
    assert first["evidence"] == "s.jsonl:t/7 solution substring lines 3-4"
    assert (first["keep"], first["rule"], first["value"]) == (False, "substring", 1)
    assert (second["keep"], second["rule"], second["value"], second["evidence"]) == (
        True,
        None,
        None,
        None,
    )
    assert third["keep"] is True
    assert (fourth["rule"], fourth["value"]) == ("renamed", 1)
    assert fourth["evidence"] == "s.jsonl:t/7 solution 20-gram without names lines 5-6"
    (run,) = verdicts(["x = 1\n# frozen at so\n# many degrees"], suite, words=5)
    assert run["evidence"] == "s.jsonl:t/7 docstring 5-gram lines 2-3"


def test_each_way_has_its_switch(tmp_path: Path) -> None:
    suite = write(tmp_path, "s.jsonl", [TASK])
    text = [TASK["prompt"] + TASK["canonical_solution"]]
    off = {"substring": False, "ngram": False, "renamed": False}
    for way in off:
        assert verdicts(text, suite, **off | {way: True})[0]["rule"] == way


def test_a_changed_suite_is_read_again(tmp_path: Path) -> None:
    suite = write(tmp_path, "s.jsonl", [TASK])
    assert verdicts(["Where do the seals go when the ice is gone?"], suite)[0]["keep"]
    write(tmp_path, "s.jsonl", [{"prompt": "Where do the seals go when the ice is gone?"}])
    assert not verdicts(["Where do the seals go when the ice is gone?"], suite)[0]["keep"]


def test_the_step_lays_verdicts_and_counts_tasks(tmp_path: Path) -> None:
    suite = write(tmp_path, "s.jsonl", [TASK])
    store = Store(str(tmp_path / "store"))
    files = stored([{"text": "x = 1"}, {"text": TASK["canonical_solution"]}], store)
    job = bare_job(store, "decontaminate")
    run(files, Config(suites=(str(suite),)), job)
    assert job.facts == {"tasks": 1, "texts": 4}
    ((shard,),) = [layer["shards"] for layer in job.layers]
    rows = read_parquet(store.local(shard["file"])).to_pylist()
    assert [(r["keep"], r["rule"]) for r in rows] == [(True, None), (False, "substring")]


@published
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_copy_of_a_published_task_is_found(name: str) -> None:
    found = verdicts(["import os\n" + whole for _, whole in programs(name)], EVALDATA / name)
    assert np.mean([not v["keep"] for v in found]) == 1


@published
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_most_published_solutions_are_found_under_other_names() -> None:
    """Those of fewer than 20 code tokens cannot be."""
    solutions = [s for name in PUBLISHED for s, _ in programs(name)]
    suites = [EVALDATA / name for name in PUBLISHED]
    found = verdicts([renamed(s) for s in solutions], *suites, substring=False, ngram=False)
    assert np.mean([not v["keep"] for v in found]) > 0.8


@published
def test_the_standard_library_stays() -> None:
    """At most 1 file in 200: some do hold `def multiply(items): p = 1; for x in items: p *= x`."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [p for p in sorted(root.rglob("*.py")) if "site-packages" not in p.parts]
    texts = [p.read_bytes().decode("utf-8", "ignore") for p in files]
    found = verdicts(texts, *(EVALDATA / name for name in PUBLISHED))
    assert sum(not v["keep"] for v in found) <= max(2, len(files) / 200)


def programs(name: str) -> list[tuple[str, str]]:
    """(solution as a whole function, the task as a whole) of each task of a published suite."""
    raw = (EVALDATA / name).read_bytes()
    text = (gzip.decompress(raw) if name.endswith("gz") else raw).decode()
    rows = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    out = []
    for row in rows:
        question = row.get("prompt") or row["text"]
        body = row.get("canonical_solution") or row["code"]
        joined = question + body
        out.append((joined if name.startswith("Human") else body, joined))
    return out


def renamed(source: str) -> str:
    """Every name that the source binds, but for attributes, under another one; no comments."""
    bound = {n.id for n in ast.walk(ast.parse(source)) if is_bound(n)}
    bound |= {n.arg for n in ast.walk(ast.parse(source)) if isinstance(n, ast.arg)}
    bound |= {n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)}
    out, before = [], ""
    for token in tokenize.generate_tokens(io.StringIO(source.replace("\r\n", "\n")).readline):
        name = token.type == tokenize.NAME and before != "." and token.string in bound
        gone = token.type == tokenize.COMMENT
        out.append((token.type, "" if gone else f"other_{token.string}" if name else token.string))
        before = token.string
    return tokenize.untokenize(out)


def is_bound(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
