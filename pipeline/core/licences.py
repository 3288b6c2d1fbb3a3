"""Licences: SPDX expressions from metadata, headers and licence files; which of them a policy allows.

Permissive is what StarCoder2 (2402.19173 §2.2) takes: Blue Oak's list, and ScanCode's categories
Permissive and Public Domain as license-expression ships them. Knows nothing of repositories.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Annotated, Any

from pipeline.core.config import Before
from pipeline.core.errors import did_you_mean
from pipeline.core.licence_table import ALIASES, BLUE_OAK, TEXTS

UNKNOWN = "NOASSERTION"
"""SPDX's word for a licence that is stated and that nobody could name: it is not unlicensed."""
POLICIES = ("any", "permissive", "permissive+unlicensed")
"""The policies that have a name; the others are lists of SPDX identifiers."""
FILE = re.compile(r"^(licen[cs]e|copying|unlicense)([.-].*)?$", re.I)
"""Names of licence files."""

_TAG = "SPDX-License-Identifier:"
_VALUE = r"[ \t]*([A-Za-z0-9(][A-Za-z0-9.+:() \t/-]*)"
_OPERATOR = re.compile(r"(\s+AND\s+|\s+OR\s+|\s+WITH\s+|[()/])", re.I)
_OPERATORS = {"AND": "AND", "OR": "OR", "WITH": "WITH", "/": "OR", "(": "(", ")": ")"}
_SHAPE = {"AND": "o", "OR": "o", "WITH": "w", "(": "(", ")": ")"}
_LATER = "(later|newer)( version)?"
_NAME = re.compile(r"\w[^()]*(\([^()]*\w[^()]*\))?[^()]*(?<=[\w.+)])")
_REF = re.compile(r"(DocumentRef-[\w.-]+:)?LicenseRef-[\w.-]+")
_GNU = re.compile(
    r"(?:gnu)?(?:(l|lesser|library|libraryorlesser|lesserorlibrary)|(a|affero))?"
    r"(?:gpl|generalpublic)(\d(?:\.\d)?)?(\+|only)?"
)


def from_metadata(
    expression: str | None, classifiers: Iterable[str], name: str | None
) -> str | None:
    """SPDX from a package: its License-Expression, its License field's name, its classifiers, or
    the text in that field, whichever is there first.

    Several classifiers must all be met (ours: nothing says that one may choose). What is stated
    and not known is UNKNOWN; None is nothing stated.
    """
    if expression and expression.strip():
        return normalise(expression) or UNKNOWN
    name = (name or "").strip()
    stated = [c.split("::")[-1].strip() for c in classifiers if c.startswith("License ::")]
    known = sorted({spdx for s in stated if (spdx := normalise(s))})
    found = normalise(name) or _all_of(known) or from_text(name)
    return found or (UNKNOWN if stated or name else None)


def from_text(text: str) -> str | None:
    """SPDX from the text of a licence file by its telling sentences; None when none is known.

    Several licences in one file must all be met (ours). The GNU texts alone count as `-only`.
    """
    plain = f" {words(text)} "
    found = {
        spdx: None
        for spdx, needs, bans in _sentences()
        if all(n in plain for n in needs) and not any(b in plain for b in bans)
    }
    first = text.strip().split("\n", 1)[0].strip("#*= \t\r")
    return " AND ".join(found) or from_header(text) or normalise(first)


def from_header(head: str) -> str | None:
    """SPDX from the `SPDX-License-Identifier:` tags in the first 20 lines (ours) of a file.

    Several tags must all be met, as REUSE has it. UNKNOWN where a tag's value is not known.
    """
    if _TAG not in head:
        return None
    values = re.findall(_TAG + _VALUE, "\n".join(head.split("\n", 20)[:20]))
    known = [normalise(_closed(value)) or UNKNOWN for value in dict.fromkeys(values)]
    return UNKNOWN if UNKNOWN in known else _all_of(known)


def _closed(value: str) -> str:
    """A tag's value without what closes the comment that it stands in (`-->`, `*)`...)."""
    value = value.rstrip(" \t-/")
    while value.count(")") > value.count("("):
        value = value[: value.rindex(")")].rstrip()
    return value


def _all_of(parts: list[str]) -> str | None:
    wrapped = [f"({p})" if " OR " in p and len(parts) > 1 else p for p in dict.fromkeys(parts)]
    return " AND ".join(wrapped) or None


def normalise(expression: str) -> str | None:
    """The SPDX form of an expression or of a licence's common name; None where any part is unknown.

    `MIT/Apache-2.0` is a choice, as Cargo meant it. `LicenseRef-` identifiers stay as they are.
    None too above 1,000 characters (ours): that is a text, not an expression.
    """
    return _normalised(expression) if len(expression) <= 1000 else None


@lru_cache(maxsize=1 << 14)
def _normalised(expression: str) -> str | None:
    whole = _named(" ".join(expression.split()))
    parts = [whole] if whole else [p.strip() for p in _OPERATOR.split(expression) if p.strip()]
    named = [_OPERATORS.get(p.upper()) or _named(p) for p in parts]
    tree = _tree(" ".join(map(str, named))) if None not in named and _well_formed(named) else None
    return None if tree is None else str(tree.render())


def _well_formed(parts: list[str | None]) -> bool:
    """Whether names, operators and parentheses alternate as they should: the library lets `MIT ( )` by."""
    shape, before = "".join(_SHAPE.get(p or "", "n") for p in parts), ""
    while shape != before:
        shape, before = re.sub(r"nwn|non|\(n\)", "n", shape), shape
    return shape == "n"


def _named(name: str) -> str | None:
    """The identifier that a name means, or None."""
    known, _ = _index()
    if name.casefold() in known:
        return known[name.casefold()]
    if _REF.fullmatch(name):
        return name
    short = squeezed(name) if _NAME.fullmatch(name) else ""
    gnu = _GNU.fullmatch(short)
    found = _gnu(*gnu.groups()) if gnu else _by_alias().get(short)
    if found or not short:
        return found
    inner = re.fullmatch(r"(.+?)\s*\(([^()]+)\)", name)
    if inner:  # twice the same, `MIT License (MIT)`; not `MIT (non-commercial)`
        return _named(inner[1]) if _named(inner[1]) == _named(inner[2]) else None
    return _named(name[:-1]) if name.endswith("+") else None


def _gnu(
    lesser: str | None, affero: str | None, version: str | None, end: str | None
) -> str | None:
    """A GNU licence; without a version it is any of them, as their texts say."""
    family = "LGPL" if lesser else "AGPL" if affero else "GPL"
    first = "2.0" if lesser else "1.0"
    number = first if version is None else version if "." in version else f"{version}.0"
    later = version is None or end == "+"
    return _index()[0].get(f"{family}-{number}-{'or-later' if later else 'only'}".casefold())


def squeezed(name: str) -> str:
    """A name without case, filling words and punctuation: `Apache License, Version 2.0` -> `apache2.0`."""
    text = re.sub(r"[\s,_-]+", " ", name.lower())
    text = re.sub(rf" *\b(or|and) (\(at your option\) )?(any )?{_LATER}\b", "+", text)
    text = re.sub(r"\b(the|licen[cs]ed?|licenses|version|under|terms of)\b", "", text)
    text = re.sub(r"\bv(er)?\.? ?(?=\d)|(?<=[a-z])v(?=\d)", "", text)
    return re.sub(r"[^a-z0-9.+<>=|]", "", text).strip(".")


def permissive(expression: str | None) -> bool:
    """Whether an SPDX expression can be met with permissive licences alone; False for none."""
    return allowed(expression, "permissive")


def policy(value: Any) -> str | tuple[str, ...]:
    """A recipe's `licences`: one of POLICIES, or a list of SPDX identifiers; ValueError otherwise."""
    if isinstance(value, str):
        if value not in POLICIES:
            hint = did_you_mean(value, POLICIES)
            raise ValueError(f"{value!r} is no policy; a list of identifiers is one too{hint}")
        return value
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{value!r} is no policy; write {', '.join(POLICIES)} or a list")
    return tuple(sorted({_identifier(item) for item in value}))


Policy = Annotated[str | tuple[str, ...], Before(policy)]
"""What a recipe allows: `any`, `permissive`, `permissive+unlicensed`, or `[MIT, Apache-2.0]`."""


def _identifier(value: Any) -> str:
    known, _ = _index()
    spdx = known.get(str(value).casefold()) or (_REF.fullmatch(str(value)) and str(value))
    if spdx and _tree(spdx) is not None:
        return spdx
    near = [normalise(str(value)) or ""] + [
        known[k] for k in get_close_matches(str(value).casefold(), known, n=1, cutoff=0.6)
    ]
    meant = next((n for n in near if n in known.values() and not spdx), None)
    hint = f"did you mean {meant!r}?" if meant else "see spdx.org/licenses"
    raise ValueError(f"{value!r} is no SPDX identifier of a licence; {hint}")


def allowed(expression: str | None, policy: str | tuple[str, ...]) -> bool:
    """Whether a licence meets a policy: an OR needs one of its sides, an AND all of them.

    An exception (WITH) gives more rights, never fewer, so its licence alone decides. No expression
    (None or blank) is unlicensed; one that cannot be read is neither permissive nor unlicensed.
    """
    if policy == "any":
        return True
    if expression is None or not expression.strip():
        return policy == "permissive+unlicensed"
    return _met(expression, policy)


@lru_cache(maxsize=1 << 14)
def _met(expression: str, policy: str | tuple[str, ...]) -> bool:
    spdx = normalise(expression)
    if spdx is None:
        return False
    _, free = _index()
    return _holds(_tree(spdx), free if isinstance(policy, str) else frozenset(policy))


def _holds(tree: Any, ids: frozenset[str]) -> bool:
    if tree.args:
        sides = [_holds(side, ids) for side in tree.args]
        return any(sides) if tree.operator.strip() == "OR" else all(sides)
    return str(getattr(tree, "license_symbol", tree).key) in ids


def _tree(expression: str) -> Any:
    """The parsed expression, or None where it is none."""
    from license_expression import ExpressionError, ExpressionParseError

    try:
        return _licensing().parse(expression, strict=True)
    except (ExpressionError, ExpressionParseError):
        return None


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@cache
def _index() -> tuple[dict[str, str], frozenset[str]]:
    """Folded names of all licences and exceptions -> SPDX identifier; and the permissive ones."""
    from license_expression import get_license_index

    rows = [row for row in get_license_index() if row["spdx_license_key"]]
    known = {
        old.casefold(): row["spdx_license_key"]
        for row in rows
        for old in row["other_spdx_license_keys"]
    }
    known |= {row["spdx_license_key"].casefold(): row["spdx_license_key"] for row in rows}
    free = {
        row["spdx_license_key"]
        for row in rows
        if row["category"] in ("Permissive", "Public Domain") and not row["is_exception"]
    }
    return known, BLUE_OAK | free


@cache
def _by_alias() -> dict[str, str]:
    """What `squeezed` leaves of identifiers and common names -> SPDX identifier."""
    known = {i for i in _index()[0].values() if not i.startswith("LicenseRef-")}
    named = {squeezed(spdx): spdx for spdx in sorted(known)}
    return named | {alias: spdx for spdx, row in ALIASES.items() for alias in row.split()}


@cache
def _sentences() -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
    rows = []
    for row in TEXTS.strip().split("\n"):
        spdx, _, rest = row.partition(": ")
        needs, _, bans = rest.partition(" - ")
        rows.append(
            (
                spdx,
                tuple(needs.split(" & ")),
                tuple(b.strip() for b in bans.split("|") if b.strip()),
            )
        )
    return tuple(rows)


def words(text: str) -> str:
    """A text's words alone: neither line wraps nor comment marks, markup or punctuation stay."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower())
