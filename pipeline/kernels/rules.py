"""The named rule sets of the filter: each rule's number, where it holds, and its source.

A rule's name says which way it cuts: `max_lines` drops what has more lines than its number,
`min_words` what has fewer; None is off. `judge` applies a set to columns of counts, all documents
at once. Knows nothing of texts: the counts come from signals, lexing, repeats and syntax.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from pipeline.core import language_table
from pipeline.core.errors import did_you_mean
from pipeline.kernels.styles import STYLE_OF

Table = Mapping[str, float | None]
"""Language -> number there, None where the rule is off."""


@dataclass(frozen=True)
class Rule:
    """One threshold over `of`, or over its share of `per`."""

    of: str
    limit: float | None
    source: str
    per: str | None = None
    only: frozenset[str] | None = None
    """The languages in which it holds at all; None is all."""
    other: Table = field(default_factory=dict)
    """Languages with a number of their own."""
    most: float = inf
    """The highest number that makes sense."""
    chance: float = 1.0
    """Share of what it hits that is dropped, drawn by the document's uid."""
    bound: bool = False
    """Whether `of` is counted in the languages of `only` alone."""

    def at(self, language: str | None) -> float | None:
        """The number that holds for a language."""
        if language is not None and language in self.other:
            return self.other[language]
        return self.limit if self.only is None or language in self.only else None


Rules = Mapping[str, Rule]


def _share(of: str, limit: float | None, source: str, per: str, **more: object) -> Rule:
    return Rule(of, limit, source, per, most=1.0, **more)  # type: ignore[arg-type]


def _flag(of: str, limit: float, source: str, **more: object) -> Rule:
    return Rule(of, limit, source, most=1.0, **more)  # type: ignore[arg-type]


_OFF: Callable[[Iterable[str]], dict[str, None]] = dict.fromkeys
_ASSEMBLY = frozenset(["Assembly", "Motorola 68K Assembly", "Unix Assembly", "WebAssembly", "LLVM"])
_LONG = frozenset(
    ["HTML", "JSON", "Markdown", "Roff", "SMT", "TeX", "Text", "XML", "reStructuredText"]
)
_PROSE = frozenset(
    ["Markdown", "MDX", "Text", "TeX", "reStructuredText", "AsciiDoc", "Org", "Roff", "RMarkdown"]
)
_DATA = frozenset(["JSON", "YAML"])
_TABLES = _DATA | {"TOML", "XML", "INI", "CSV", "JSON with Comments", "Jupyter Notebook"}
_LISTS = _DATA | {"Text", "Web Ontology Language", "Graphviz (DOT)"}
_PYTHON, _HTML = frozenset(["Python"]), frozenset(["HTML"])
_C = frozenset(["C", "C++"])
_PRINTING = _PYTHON | _C | {"C#", "Go", "Java", "JavaScript"}

BIGCODE: Rules = {
    "max_lines": Rule("lines", 100_000, "StarCoder2, app. A"),
    "max_line": Rule("max_line", 1000, "StarCoder2, app. A", other=dict.fromkeys(_LONG, 100_000.0)),
    "max_mean_line": Rule(
        "line_characters", 100, "StarCoder2, app. A", per="lines", other=_OFF(_LONG)
    ),
    "min_alphabetic": _share(
        "alphabetic", 0.25, "StarCoder2, app. A", "characters", other=_OFF(_ASSEMBLY)
    ),
    "min_alphanumeric": _share(
        "alphanumeric", 0.25, "StarCoder2, app. A", "characters", only=_ASSEMBLY
    ),
    "max_generated": _flag("generated", 0, "StarCoder2, app. A; go-enry"),
    "max_generated_name": _flag("generated_name", 0, "StarCoder2, app. A; go-enry"),
    "max_encoded": _share("encoded", 0.5, "StarCoder2, app. A", "characters"),
    "max_encoded_run": Rule("encoded_run", 1024, "StarCoder2, app. A"),
    "max_data_lines": Rule("lines", 512, "StarCoder2, app. A", only=_LISTS),
    "min_data_characters": Rule("characters", 50, "DeepSeek-Coder §2.1", only=_DATA),
    "max_data_characters": Rule("characters", 5000, "DeepSeek-Coder §2.1", only=_DATA),
    "min_visible": _share(
        "visible", 0.2, "StarCoder2, app. A", "characters", only=_HTML, bound=True
    ),
    "min_visible_characters": Rule("visible", 100, "StarCoder2, app. A", only=_HTML, bound=True),
    "max_xml": _flag("xml", 0, "BigCode; DeepSeek-Coder §2.1", other=_OFF(["XSLT"])),
    "min_text_name": _flag("told_name", 1, "StarCoder2, app. A", only=frozenset(["Text"])),
    "min_comments": _share(
        "comments", None, "off; SantaCoder 0.01", "characters", only=frozenset(STYLE_OF)
    ),
    "max_comments": _share(
        "comments", None, "off; SantaCoder 0.8", "characters", only=frozenset(STYLE_OF)
    ),
}
"""What StarCoder2 (2402.19173) and BigCode's own filters drop. The comment rules are off, as in
StarCoder2; SantaCoder's numbers are in their sources."""

_O = "OpenCoder, app. A"
_QUOTED = _OFF(_PROSE | _TABLES | {"Shell", "HTML"})
_GRAMS: dict[str, Rule] = {
    **{
        f"max_top_{n}_gram": _share(f"top_{n}_gram", limit, _O, "word_characters")
        for n, limit in ((2, 0.20), (3, 0.18), (4, 0.16))
    },
    **{
        f"max_repeated_{n}_grams": _share(
            f"repeated_{n}_grams",
            limit,
            _O,
            "word_characters",
            other=dict.fromkeys(_PROSE | _HTML, 0.6),
        )
        for n, limit in ((5, 0.8), (6, 0.7), (7, 0.7), (8, 0.7), (9, 0.7), (10, 0.6))
    },
}

OPENCODER: Rules = {
    "max_size": Rule("size", 3e6, _O),
    "min_lines": Rule("lines", 10, _O),
    "max_lines": BIGCODE["max_lines"],
    "max_line": Rule("max_line", 1000, _O, other=_OFF(_PROSE)),
    "min_mean_line": Rule("line_characters", 5, _O, per="lines", other=_OFF(_PROSE)),
    "max_mean_line": Rule("line_characters", 100, _O, per="lines", other=_OFF(_PROSE)),
    "min_characters": Rule("characters", 50, _O),
    "max_data_characters": Rule("characters", 5000, _O, only=_DATA),
    "max_replacements": _share("replacements", 0.01, _O, "characters"),
    "min_alphabetic": _share("alphabetic", 0.5, _O, "filled"),
    "max_digits": _share("digits", 0.2, _O, "filled", other={"SQL": 0.3}),
    "max_spaces": _share("spaces", 0.5, _O, "characters"),
    "max_generated": BIGCODE["max_generated"],
    "max_generated_name": BIGCODE["max_generated_name"],
    "max_announced": _flag("announced", 0, _O, other=_OFF(_PROSE)),
    "max_encoded": BIGCODE["max_encoded"],
    "max_encoded_run": BIGCODE["max_encoded_run"],
    "min_visible": replace(BIGCODE["min_visible"], source=_O),
    "min_visible_characters": replace(BIGCODE["min_visible_characters"], source=_O),
    "max_xml": replace(BIGCODE["max_xml"], source=_O),
    "max_comments": _share("comments", 0.8, _O, "characters", other=_OFF(_PROSE | _HTML)),
    "max_long_string_lines": _share("long_string_lines", 0.2, _O, "code_lines", other=_QUOTED),
    "max_strings": _share("strings", 0.6, _O, "uncommented", other=_QUOTED),
    "max_long_words": _share("long_words", 0.4, _O, "uncommented", other=_OFF(_HTML)),
    "max_hex_words": _share("hex_words", 0.4, _O, "uncommented"),
    "max_todo_lines": _share("todo_lines", 0.01, _O, "lines", other=_OFF(_PROSE | _TABLES | _HTML)),
    "max_assert_lines": _share(
        "assert_lines", 0.4, _O, "code_lines", other={**_QUOTED, "Go": None}
    ),
    "min_words": Rule("words", 30, _O, other=dict.fromkeys(_PROSE, 50.0)),
    "min_mean_word": Rule("word_characters", 2, _O, per="words"),
    "max_mean_word": Rule("word_characters", 10, _O, per="words"),
    "min_unique_words": _share("unique_words", 0.4, _O, "words", only=_DATA),
    **_GRAMS,
    "max_repeated_lines": _share(
        "repeated_lines", 0.7, _O, "filled_lines", other=dict.fromkeys(_PROSE, 0.6)
    ),
    "max_print_lines": _share("print_lines", 0.4, _O, "code_lines", only=_PRINTING),
    "min_parsed": _flag("parsed", 1, _O, only=_PYTHON, bound=True),
    "max_functions": _share("functions", 0.2, _O, "code_lines", only=_PYTHON, bound=True),
    "max_simple_functions": _share(
        "simple_functions", 0.1, _O, "code_lines", only=_PYTHON, bound=True
    ),
    "max_imports": _share("imports", 0.3, _O, "code_lines", only=_PYTHON, bound=True),
    "max_passes": _share("passes", 0.05, _O, "code_lines", only=_PYTHON, bound=True),
    "min_variables": Rule("variables", 1, _O, only=_PYTHON, bound=True),
    "max_no_logic": _share("no_logic", 0.5, _O, "code_lines", only=_PYTHON, bound=True, chance=0.8),
    "max_directives": _share("directives", 0.8, _O, "code_lines", only=_C),
    "max_mains": Rule("mains", 1, _O, only=_C),
    "max_tests": _flag("test_name", 0, _O, only=frozenset(["Go"]), chance=0.8),
}
"""OpenCoder's numbers (2411.04905, app. A, and the filter it publishes). What needs a parser of another
language than Python is not built: JavaScript and HTML that parse, functions, variables and logic of
Java, Go, C, C# and JavaScript. Prose has the numbers of its text filter (the choice is ours)."""

SETS: Mapping[str, Rules] = {"bigcode": BIGCODE, "opencoder": OPENCODER, "none": {}}
DERIVED: Mapping[str, tuple[tuple[str, int], ...]] = {
    "filled": (("characters", 1), ("spaces", -1)),
    "uncommented": (("characters", 1), ("comments", -1)),
    "no_logic": (("functions", 1), ("classes", 1), ("imports", 1), ("plain", 1)),
}
"""Quantities that are sums of columns."""
LANGUAGES = frozenset([*STYLE_OF, *language_table.EXTENSIONS, *language_table.NAMES]) | {
    language
    for rules in SETS.values()
    for rule in rules.values()
    for language in (*rule.other, *(rule.only or ()))
}
"""The languages that a recipe may name: what ingest can call a file, and all in the tables above."""


def settled(name: str, limits: Table, languages: Mapping[str, Table]) -> dict[str, Rule]:
    """The rule set of that name with a recipe's numbers in it; ValueError for what it does not have.

    `limits` replace a rule's number wherever it holds, not its exceptions; `languages` say what holds
    in one language, whatever the rule says of it.
    """
    rules = SETS[name]
    _check(name, rules, limits, "limits")
    for language, table in languages.items():
        if language not in LANGUAGES:
            raise ValueError(
                f"languages: no language {language!r}{did_you_mean(language, LANGUAGES)}"
            )
        _check(name, rules, table, f"languages: {language}")
        _check_counted(rules, table, language)
    return {r: _settled(rule, r, limits, languages) for r, rule in rules.items()}


def _settled(rule: Rule, name: str, limits: Table, languages: Mapping[str, Table]) -> Rule:
    own = {language: table[name] for language, table in languages.items() if name in table}
    limit = limits.get(name, rule.limit)
    return replace(rule, limit=limit, other={**rule.other, **own})


def _check(name: str, rules: Rules, table: Table, where: str) -> None:
    for key, value in table.items():
        if key not in rules:
            raise ValueError(f"{where}: rules {name} have no {key!r}{did_you_mean(key, rules)}")
        if value is not None and not 0 <= value <= min(rules[key].most, 1e15):
            most = f"to {rules[key].most:g}" if rules[key].most < inf else "or more"
            raise ValueError(f"{where}: {key} is {value}: a number, 0 {most}, or null for off")


def _check_counted(rules: Rules, table: Table, language: str) -> None:
    for key in table:
        if rules[key].bound and language not in (rules[key].only or ()):
            only = ", ".join(sorted(rules[key].only or ()))
            raise ValueError(
                f"languages: {language}: {key} is counted in {only} only; leave it out"
            )


def columns(rules: Rules) -> frozenset[str]:
    """The columns of counts that these rules read, leaving out those that are off everywhere."""
    active = [r for r in rules.values() if r.limit is not None or any(_numbers(r.other))]
    read = {q for rule in active for q in (rule.of, rule.per) if q}
    return frozenset(c for q in read for c in _sources(q))


def _numbers(table: Table) -> list[bool]:
    return [number is not None for number in table.values()]


def _sources(quantity: str) -> list[str]:
    return [name for name, _ in DERIVED.get(quantity, ((quantity, 1),))]


def judge(
    counts: Callable[[str], NDArray[np.float64]],
    languages: tuple[list[str | None], NDArray[np.int64]],
    rules: Rules,
    drawn: Callable[[str, NDArray[np.int64]], NDArray[np.float64]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(number of the first rule broken or -1, the value it has) of every document.

    counts: the column of a name, nan where a document has none. languages: their names, and each
    document's place among them. drawn: draws in [0, 1) of the documents at some rows, for a rule.
    """
    names, at = languages
    first, value = np.full(len(at), -1), np.full(len(at), np.nan)
    for number, (name, rule) in enumerate(rules.items()):
        bound = np.array([_nan(rule.at(n)) for n in names], float)[at]
        if np.isnan(bound).all():
            continue
        measured = _measured(rule, counts)
        hit = (measured < bound if name.startswith("min_") else measured > bound) & (first < 0)
        if rule.chance < 1:
            rows = np.flatnonzero(hit)
            hit[rows] = drawn(name, rows) < rule.chance
        first[hit], value[hit] = number, measured[hit]
    return first, value


def _nan(limit: float | None) -> float:
    return np.nan if limit is None else limit


def _measured(rule: Rule, counts: Callable[[str], NDArray[np.float64]]) -> NDArray[np.float64]:
    whole = _quantity(rule.of, counts)
    if rule.per is None:
        return np.minimum(whole, 1.0) if rule.most == 1.0 else whole
    return np.asarray(whole / np.maximum(_quantity(rule.per, counts), 1.0))


def _quantity(name: str, counts: Callable[[str], NDArray[np.float64]]) -> NDArray[np.float64]:
    parts = [sign * counts(column) for column, sign in DERIVED.get(name, ((name, 1),))]
    return np.asarray(np.sum(parts, axis=0))
