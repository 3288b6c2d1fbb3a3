"""What can go wrong on the user's side. Everything else is a bug and keeps its traceback.

IcefloeError           exit code 2
|- RecipeError         the recipe, an override or the command line: names file, step, key, value
|- StageError          the data or the machine while a step runs: names step, shard, row or path
`- Busy                another process holds the store
"""

from collections.abc import Iterable
from difflib import get_close_matches


class IcefloeError(Exception):
    """A problem the user can mend; the message says what happened and what to do next."""


class RecipeError(IcefloeError):
    """The recipe or the command line is wrong; nothing was run."""


class StageError(IcefloeError):
    """A step cannot go on with this data or on this machine; finished shards are kept."""


class Busy(IcefloeError):
    """The store is in use by another process."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, else the list of what there is."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is: {', '.join(names)}" if names else ""
