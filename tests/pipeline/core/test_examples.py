"""Examples of good code: every shape of row as the text it becomes, files, and what is no example."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import RecipeError, StageError
from pipeline.core.examples import Example, read, rendered
from pipeline.core.suites import SUITES

CODE = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": CODE}, CODE),
        ({"content": CODE, "repo": "a/b"}, CODE),
        ({"instruction": "Do it.", "response": CODE}, f"Do it.\n\n{CODE}"),
        ({"instruction": "Do it.", "input": "3", "output": CODE}, f"Do it.\n\n3\n\n{CODE}"),
        ({"instruction": "Do.", "input": "", "output": CODE, "text": "all"}, f"Do.\n\n{CODE}"),
        ({"problem": "Do it.", "solution": CODE}, f"Do it.\n\n{CODE}"),
        ({"prompt": "Do it.", "completion": CODE}, f"Do it.\n\n{CODE}"),
        ({"question": "Do it.", "solutions": json.dumps([CODE, "other"])}, f"Do it.\n\n{CODE}"),
        ({"prompt": "def f(x):\n", "canonical_solution": "    return x\n"}, CODE),
        ({"complete_prompt": "def f(x):\n", "canonical_solution": "    return x\n"}, CODE),
        ({"text": "Write f.", "code": CODE, "test_list": ["assert f(1)"]}, CODE),
        ({"prompt": "ds", "reference_code": CODE}, CODE),
        (
            {"messages": [{"role": "system", "content": "Be good."}, {"role": "user", "content": "Do it."},
                          {"role": "assistant", "content": CODE}]},
            f"Do it.\n\n{CODE}",
        ),
        ({"conversations": [{"from": "human", "value": "Do"}, {"from": "gpt", "value": CODE}]}, f"Do\n\n{CODE}"),
        ({"messages": []}, None),
        ({"text": " \n"}, None),
        ({"text": 3, "label": 1}, None),
        ({"prompt": "a question alone"}, None),
    ],
)  # fmt: skip
def test_a_row_becomes_one_text(row: dict[str, Any], text: str | None) -> None:
    found = rendered(row)
    assert (found and found.strip()) == (text and text.strip())


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return str(path)


def examples(path: str) -> tuple[list[Example], Counter[str]]:
    missed: Counter[str] = Counter()
    return list(read(path, missed)), missed


def test_rows_without_a_repository_are_each_their_own(tmp_path: Path) -> None:
    found, _ = examples(
        lines(tmp_path / "a.jsonl", [{"text": "x = 1"}, {"text": "y = 1", "repo": "r"}])
    )
    assert [e.repo for e in found] == ["a.jsonl#0", "r"]


def test_languages_are_ours_whatever_they_are_called(tmp_path: Path) -> None:
    rows = [
        {"text": "x", "language": "python"}, {"text": "x", "lang": "cpp"}, {"text": "x", "lang": "C#"},
        {"text": "x", "programming_language": "TypeScript"}, {"text": "x", "path": "a/b.rs"},
        {"instruction": "Do", "response": "Here:\n```go\nx\n```"}, {"text": "x", "language": "en"},
    ]  # fmt: skip
    found, _ = examples(lines(tmp_path / "a.jsonl", rows))
    assert [e.language for e in found] == ["Python", "C++", "C#", "TypeScript", "Rust", "Go", None]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "json"])
def test_forms_of_a_table_give_the_same_examples(tmp_path: Path, form: str) -> None:
    rows = [{"problem": f"Do {k}.", "solution": CODE, "seed": "s"} for k in range(5)]
    path = tmp_path / f"a.{form}"
    whole = json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows))
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(whole.encode()) if form.endswith("gz") else whole.encode())
    found, missed = examples(str(path))
    assert [e.text for e in found] == [f"Do {k}.\n\n{CODE}" for k in range(5)]
    assert not missed


def test_a_folder_gives_its_source_files_and_counts_the_rest(tmp_path: Path) -> None:
    for name, data in {
        "a.py": CODE.encode(),
        "b.bin": b"\0\1",
        "c.py": b"\xff\xfe",
        "d.py": b" ",
    }.items():
        path = tmp_path / "repo" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    found, missed = examples(str(tmp_path))
    assert [(e.repo, e.path, e.language) for e in found] == [("repo", "a.py", "Python")]
    assert missed == {"not_source": 3}


def test_rows_that_have_no_text_are_counted(tmp_path: Path) -> None:
    found, missed = examples(
        lines(tmp_path / "a.jsonl", [{"text": "x"}, {"text": None}, "{broken", "[1]"])
    )
    assert (len(found), missed) == (1, {"without_text": 3})


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_table_without_a_text_column_is_named(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    rows = [{"body": CODE, "label": 1}]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines(path, rows)
    with pytest.raises(
        StageError, match=r"a\.\w+: no row has a text; its columns are body, label\. It"
    ):
        examples(str(path))


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(StageError, match=r"a\.parquet: cannot be read"):
        examples(str(tmp_path / "a.parquet"))


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        examples(str(tmp_path / "a.jsonl"))


def test_the_shipped_suite_gives_a_solution_a_task() -> None:
    found, missed = examples(str(SUITES / "icefloe.jsonl"))
    assert len(found) == 32
    assert not missed
    assert found[0].text.startswith("def thaw(celsius: int) -> int:")
    assert found[0].text.endswith("    return celsius + 1\n")
