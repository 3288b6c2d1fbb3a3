"""What the annotator's own routes take and answer.

Knows nothing of how a judge is asked.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.schemas import Body, Part, Text

MAX_FILES = 64
"""Most files in one request (ours)."""


class File(Part):
    """A source file to judge by its text; `path` and `language` come back as they were sent."""

    text: Text
    path: Text | None = None
    language: Text | None = None
    """As the corpus calls it; left out, the path tells it."""


class AnnotateRequest(Body):
    """`POST /v1/annotate`; `model` is the annotator's name."""

    files: Annotated[list[File], Field(min_length=1, max_length=MAX_FILES)]


class _Told(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Window(_Told):
    """One window's score, and where it lies in the text: from a character up to another."""

    score: float
    start: int
    end: int


class Annotation(_Told):
    """What a judge says of one file; `score` is the mean of its `windows`."""

    index: int
    score: float
    probs: dict[str, float] | None
    """Of each class by name; null where the judge is no classifier."""
    windows: list[Window]
    percentile: float | None
    """The share of the corpus's files that score less, 0 to 1; null where the release does not say."""
    language_percentile: float | None
    """The same among the files of its language."""
    truncated: bool
    """Whether some of it lies in no window."""
    seen: int
    unseen: int
    """Characters that lie in a window, and in none."""
    path: str | None
    language: str | None


class Annotator(_Told):
    """Which judge it is, as its card says."""

    name: str
    kind: str
    window: int
    """Tokens, those that frame it included."""
    column: str
    labels: list[str] | None
    """Its classes, the good one last; null where it is no classifier."""
    gate: str | None
    """What `auc` was measured on: `proof`, good code never learnt from, or `held_out`."""
    auc: float | None
    data: str | None
    """The key of the step that trained it."""


class AnnotateResponse(_Told):
    """One annotation a file, in order."""

    object: Literal["list"] = "list"
    data: list[Annotation]
    model: str
    annotator: Annotator


class Histogram(_Told):
    """The scores of some files of the corpus."""

    documents: int
    unscored: int
    counts: list[int]
    """Documents by bar, from the low to the high end of the range."""


class Corpus(_Told):
    """The scores of all that the judge has scored."""

    range: tuple[float, float]
    all: Histogram
    languages: dict[str, Histogram]


class AnnotatorResponse(Annotator):
    """`GET /v1/annotator`."""

    scores: Corpus | None
    """Null where the release does not say."""
