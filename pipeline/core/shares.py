"""Shares of a budget as exact fractions: a mix that names some languages, the others' proportions.

Ours, for SnowCoder's phase 3 (2409.02326), whose Python is given. Knows nothing of scores.
"""

from fractions import Fraction

from pipeline.core.errors import StageError, did_you_mean


def exact(share: float) -> Fraction:
    """The number as it was written: 0.1 is a tenth."""
    return Fraction(str(share))


def parts(tokens: dict[str, int], mix: dict[str, float]) -> dict[str, Fraction]:
    """Each language's share of the budget: the mix's; the others' own proportions of what it leaves.

    StageError for a mix that names a language that is not there, or leaves a rest to none.
    """
    if missing := [name for name in mix if name not in tokens]:
        near = did_you_mean(missing[0], tokens)
        raise StageError(f"select: mix names {missing[0]!r}, a language without documents{near}")
    rest = 1 - sum(map(exact, mix.values()), Fraction(0))
    others = sum(n for name, n in tokens.items() if name not in mix)
    if rest and mix and mix.keys() == tokens.keys():
        raise StageError(
            f"select: mix names every language there is and leaves {float(rest):.4g} of the budget "
            "to none; let its shares sum to 1"
        )
    own = {name: rest * Fraction(n, others or 1) for name, n in tokens.items()}
    return own | {name: exact(share) for name, share in mix.items()}
