"""Small generated repositories for tests: the same bytes on every machine and Python.

Each has documented and bare Python files, a C file, a licence, and things to drop or redact; across
them there are exact and near copies.
"""

import random
from pathlib import Path

VERBS = ("scale", "merge", "count", "split", "shift", "clip", "join", "rank", "trim", "fold")
NOUNS = ("rows", "words", "pixels", "edges", "prices", "tokens", "genes", "waves", "nodes", "dates")


def documented(rng: random.Random, functions: int = 4) -> str:
    """A module of typed functions with docstrings and real bodies."""
    return '"""Helpers for lists of numbers."""\n\n' + "\n\n".join(
        _function(rng, True) for _ in range(functions)
    )


def bare(rng: random.Random, functions: int = 5) -> str:
    """The same without documentation."""
    return "import os\n\n" + "\n\n".join(_function(rng, False) for _ in range(functions))


def _function(rng: random.Random, told: bool) -> str:
    name = f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}_{rng.randrange(1000)}"
    a, b, c = rng.randrange(2, 99), rng.randrange(2, 99), rng.choice(("+", "-", "*", "%"))
    head = (
        f"def {name}(values: list[int], limit: int = {a}) -> list[int]:"
        if told
        else f"def {name}(values, limit={a}):"
    )
    text = (
        f'    """Return the values of the list below the limit, each with {c} {b} applied to it."""\n'
        if told
        else ""
    )
    lines = [
        "    out = []",
        f"    for index, value in enumerate(values[{rng.randrange(3)}:]):",
        f"        if value < limit and index % {rng.randrange(2, 9)} != {rng.randrange(2)}:",
        f"            out.append(value {c} {b})",
        f"    {rng.choice(VERBS)} = sum(out) + {rng.randrange(10_000)}",
        f"    return out if {rng.choice(('limit', 'len(values)'))} > {rng.randrange(50)} else out[:{rng.randrange(1, 9)}]",
    ]
    return f"{head}\n{text}" + "\n".join(lines) + "\n"


def c_file(rng: random.Random) -> str:
    """A C file with documentation comments."""
    parts = [
        f"/** Returns {rng.choice(VERBS)} of the {rng.choice(NOUNS)}, never more than {n} times. */\n"
        f"int {rng.choice(VERBS)}_{n}(int x) {{\n    int y = x * {n};\n    return y % {rng.randrange(2, 99)};\n}}\n"
        for n in (rng.randrange(1000) for _ in range(4))
    ]
    return "#include <stdio.h>\n\n" + "\n".join(parts)


def repositories(root: Path, count: int = 6, seed: int = 0, prefix: str = "repo") -> Path:
    """`count` folders below `root`, each a repository of about ten files."""
    for number in range(count):
        rng = random.Random(f"{seed}-{prefix}-{number}")
        files = {f"good/m{i}.py": documented(rng) for i in range(4)}
        files |= {f"src/m{i}.py": bare(rng) for i in range(4)}
        files |= {
            "native/ops.c": c_file(rng),
            "LICENSE": "Permission is hereby granted, free of charge, to any person",
            "README.md": f"# {prefix} {number}\n\nWrite to someone{number}@company{number}.com about it.\n"
            * 3,
            "data.bin": "\x01\x02",
            "generated.py": "# This file is generated, do not touch.\n" + bare(rng),
            "common.py": documented(random.Random("shared")),
            "near.py": documented(random.Random("near"), 9) + f"\n\nVERSION = {number}\n",
        }
        write(root / f"{prefix}{number}", files)
    return root


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write `files` (path -> content) below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
