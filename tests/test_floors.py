"""The architecture as a test: imports run downhill, boxes never meet, heavy libraries stay where
they belong.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("pipeline.core", "pipeline.kernels", "pipeline.model", "pipeline", "serve", "cluster")
"""Lowest first. `pipeline` are the boxes."""
APART = {"pipeline", "pipeline.kernels"}
"""Floors whose modules do not import one another... but kernels may share kernels."""
CONFINED = {
    "ray": {"pipeline.core", "pipeline", "serve", "cluster"},
    "torch": {"pipeline.model", "serve", "cluster"},
    "transformers": {"pipeline.model", "serve", "cluster"},
    "fastapi": {"serve"},
    "plotly": {"cluster"},
    "sklearn": {"pipeline.model"},
    "prometheus_client": {"serve"},
}


def floor(module: str) -> str | None:
    """The floor a module belongs to, or None for somebody else's."""
    return next(
        (
            f
            for f in sorted(FLOORS, key=len, reverse=True)
            if module == f or module.startswith(f + ".")
        ),
        None,
    )


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{a.name}" for a in node.names)


def modules() -> Iterator[tuple[str, Path]]:
    for top in ("pipeline", "serve", "cluster"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def faults(name: str, path: Path) -> Iterator[str]:
    mine = floor(name)
    assert mine
    for found in imports(path):
        theirs = floor(found)
        if theirs and FLOORS.index(theirs) > FLOORS.index(mine):
            yield f"{name} imports {found}, which is above it"
        if theirs == mine == "pipeline" and not found.startswith(name):
            yield f"{name} imports {found}; boxes do not know each other"
        package = found.split(".")[0]
        if package in CONFINED and mine not in CONFINED[package]:
            yield f"{name} imports {package}; only {', '.join(sorted(CONFINED[package]))} may"


def test_imports_run_downhill() -> None:
    assert [f for name, path in modules() for f in faults(name, path)] == []


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("pipeline.core.x", "import pipeline.dedup", "above it"),
        ("pipeline.kernels.x", "def f():\n    import torch", "imports torch"),
        ("pipeline.filter", "from pipeline.dedup import sketch", "boxes do not know"),
        ("serve.x", "from cluster import cli", "above it"),
        ("pipeline.model.x", "import ray.data", "imports ray"),
    ],
)
def test_planted_faults_are_found(tmp_path: Path, name: str, line: str, fault: str) -> None:
    (tmp_path / "x.py").write_text(line)
    assert any(fault in f for f in faults(name, tmp_path / "x.py"))


def test_every_box_has_the_same_shape() -> None:
    from pipeline.core.recipe import box, inputs_of, stages

    for stage in stages():
        module = box(stage)
        assert isinstance(module.VERSION, int), stage
        assert module.__doc__, stage
        assert callable(module.run), stage
        assert module.Config, stage
        clash = inputs_of(module).keys() & module.Config.__dataclass_fields__.keys()
        assert not clash, f"{stage}: {clash} is an input and a setting"


def test_planning_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from cluster import cli; from pipeline.core import recipe; recipe.load('snowcoder', ['laptop']);"
        "print([m for m in ('torch', 'ray', 'transformers', 'tokenizers', 'fastapi', 'plotly', 'sklearn', 'httpx') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert found.stdout.strip() == "[]"


def test_training_and_its_benchmark_need_neither_ray_nor_pydantic() -> None:
    """A machine with a GPU may have torch and transformers alone."""
    code = (
        "import sys; import pipeline.model.fit, pipeline.model.batching, pipeline.model.scorer, tests.bench.fit;"
        "print([m for m in ('ray', 'pydantic', 'pydantic_core') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert found.stdout.strip() == "[]"


def test_functions_and_files_stay_readable() -> None:
    """No function over 60 lines, no file over 450, the median function at most 10."""
    lengths = []
    for name, path in modules():
        text = path.read_text()
        assert text.count("\n") <= 450, name
        nodes = [
            n
            for n in ast.walk(ast.parse(text))
            if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        for node in nodes:
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{name}.{node.name} has {length} lines"
            lengths.append(length)
    assert sorted(lengths)[len(lengths) // 2] <= 11
