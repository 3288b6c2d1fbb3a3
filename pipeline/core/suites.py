"""Where suites of tasks lie: shipped with this package by name, or anywhere by path.

Knows nothing of what is in them.
"""

from pathlib import Path

from pipeline.core.errors import RecipeError, did_you_mean

SUITES = Path(__file__).parent.parent / "suites"


def find(suite: str, where: str) -> Path:
    """The file of a suite; RecipeError, led by `where`, when there is none."""
    for path in (Path(suite), SUITES / f"{suite}.jsonl"):
        if path.is_file():
            return path.resolve()
    known = [p.stem for p in SUITES.glob("*.jsonl")]
    raise RecipeError(f"{where}: no suite {suite!r}{did_you_mean(suite, known)}; a path works too")
