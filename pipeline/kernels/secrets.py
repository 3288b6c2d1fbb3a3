"""Personal data and secrets of a text column, as edits: byte ranges and their placeholders.

One compiled pass finds the words and shapes that a secret has (`keywords`); only there is a rule's
form matched (`secret_rules`) and the value tested (`gibberish`). A text without hits costs nothing
more. Placeholders are constants (BigCode's): the same secret has the same one everywhere, and no
placeholder tells which secret it was. Names of people need a model and are not touched.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.core.arrays import I64, U8, flat
from pipeline.core.schema import EDITS
from pipeline.kernels import headers, keywords, secret_rules
from pipeline.kernels.gibberish import guessable, random, stand_in
from pipeline.kernels.secret_rules import Rule

Text: TypeAlias = pa.ChunkedArray | pa.Array
Span = tuple[int, int, int, str, str]
"""(start, order, end, placeholder, rule), bytes of the text: sorted, the first of two that overlap wins."""

_EMAIL = re.compile(
    rb"(?<![\w.+%-])[.+%-]{0,3}([A-Za-z0-9][\w.+%-]{0,63}@((?:[A-Za-z0-9-]{1,63}\.){1,8}([A-Za-z]{2,18})))(?![\w(@-])"
)
_IPV4 = re.compile(rb"((?:\d{1,3}\.){3}\d{1,3})(?!\.?\w|-\w)")
_IPV6 = re.compile(rb"([0-9a-fA-F:]{6,39})(?![\w:]|\.\d)")
_RESERVED = re.compile(
    rb"(?:^|\.)(?:example(?:\.(?:com|org|net|edu))?|localhost|invalid|test|local|domain\.com|"
    rb"users\.noreply\.github\.com)$",
    re.I,
)
_DOMAINS = frozenset(
    b"com net org edu gov mil int info biz name pro mobi aero coop museum jobs travel asia cat tel post "
    b"dev app cloud tech online site xyz blog email systems software digital agency company solutions "
    b"science academy university computer codes technology network page club live space world group "
    b"global media studio today works zone team tools wiki design rocks ninja guru foundation engineering "
    b"ventures capital bank google amazon microsoft apple berlin london paris tokyo nyc moscow".split()
)
"""Top-level domains of more than two letters; all others are taken for attributes (ours)."""
_NOT_PEOPLE = frozenset([b"git", b"hg", b"svn"])
"""Local parts of repository addresses (`git@github.com:`)."""
_VERSION = re.compile(
    rb"(?:version|release|build|oid|identifier|chapter|section|\bv)[\w\"'`:=()\[\]., -]{0,12}$|"
    rb"(?:[=~<>]=|[~^]) ?$|[^/]/$|[a-z]-$",
    re.I,
)
"""What stands before four numbers that are no address."""
_LAST = 1_000
"""After every rule, where two begin at one place."""
_DNS = """
8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 76.76.19.19 76.223.122.150 9.9.9.9 149.112.112.112 208.67.222.222
208.67.220.220 8.26.56.26 8.20.247.20 94.140.14.14 94.140.15.15
2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111 2606:4700:4700::1001 2620:fe::fe 2620:fe::9
"""
"""Popular name servers, which tell nothing of anyone (BigCode's list; the last six are
ours)."""
_LOCKFILES = re.compile(
    r"(?:^|/)(?:[^/]*\.lock|[^/]*\.lock\.(?:json|hcl|ya?ml)|package-lock\.json|npm-shrinkwrap\.json|"
    r"pnpm-lock\.yaml|yarn\.lock|go\.sum|packages\.lock\.json|Package\.resolved|gradle\.lockfile|"
    r"bun\.lockb?|MODULE\.bazel\.lock|verification-metadata\.xml)$"
)
_PLAIN_NAME = re.compile(
    rb"public|hash|digest|checksum|integrity|sha\d|md5|commit|etag|fingerprint|tokeni[sz]", re.I
)
_ATTRIBUTE = re.compile(rb"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_LINE_START = re.compile(rb"^[\s#/*<-]*(?:(?:export|set|env|arg|const|-) +)?[\"']?[\w.-]*$", re.I)


@dataclass(frozen=True)
class Kinds:
    """What is to be replaced."""

    emails: bool = True
    """E-mail addresses outside the reserved domains."""
    ips: bool = True
    """Public IPv4 and IPv6 addresses but popular name servers."""
    keys: bool = True
    """Keys, tokens, passwords and private keys."""
    licence_headers: bool = False
    """The leading comment, where it is about copyright or licence."""


def edits(
    text: Text, kinds: Kinds, path: Text | None = None, language: Text | None = None
) -> pa.ListArray:
    """schema.EDITS, one list a text: UTF-8 byte ranges, ascending, not overlapping.

    path: each text's file name; lockfiles are not searched for random values without a known form.
    language: each text's language, without which no licence header is known.
    """
    data, offsets = flat(text)
    found: dict[int, list[Span]] = {}
    for doc, span in _spans(data, offsets, kinds, path):
        found.setdefault(doc, []).append(span)
    if kinds.licence_headers and language is not None:
        for doc, (start, end) in headers.found(data, offsets, language):
            found.setdefault(doc, []).append((start, -1, end, "", "licence_header"))
    return _lists({doc: _disjoint(spans) for doc, spans in found.items()}, len(offsets) - 1)


def counts(lists: pa.ListArray) -> list[str | None]:
    """Each row's edits in words, `aws_access_key 1, email 2`; None for a row without."""
    rows: list[str | None] = [None] * len(lists)
    lengths = np.diff(lists.offsets.to_numpy())
    for row in np.flatnonzero(lengths).tolist():
        rules = lists[row].values.field("rule").to_pylist()
        rows[row] = ", ".join(f"{rule} {rules.count(rule)}" for rule in sorted(set(rules)))
    return rows


def _spans(data: U8, offsets: I64, kinds: Kinds, path: Text | None) -> Iterator[tuple[int, Span]]:
    """(text, what is found in it)."""
    known = plan()
    where, codes = keywords.hits(data, offsets, known.table)
    docs = np.searchsorted(offsets, where, side="right") - 1
    locked = _locked(path, len(offsets) - 1)
    raw = memoryview(data.data)
    for hit, code, doc in zip(where.tolist(), codes.tolist(), docs.tolist(), strict=True):
        low = int(offsets[doc])
        view, at = raw[low : int(offsets[doc + 1])], hit - low
        rules = known.rules[code] if kinds.keys else ()
        for order, rule in rules:
            if rule.check in ("random", "bare") and locked[doc]:
                continue
            match = rule.form.match(view, at)
            if match and _holds(rule, match, view):
                start, end = match.span(match.lastindex)
                yield doc, (start, order, end, rule.placeholder, rule.name)
        if code >= known.words:
            yield from ((doc, span) for span in _shaped(code - known.words, view, at, kinds))


@dataclass(frozen=True)
class Plan:
    """The words to look for and, for each hit's code, the rules to try with their order."""

    table: keywords.Table
    rules: tuple[tuple[tuple[int, Rule], ...], ...]
    words: int


@cache
def plan() -> Plan:
    """Made of the rules, once a process."""
    rules = list(enumerate(secret_rules.rules()))
    words = list(dict.fromkeys(word for _, rule in rules for word in rule.words))
    tried = [tuple((i, rule) for i, rule in rules if word in rule.words) for word in words]
    shapes: list[tuple[tuple[int, Rule], ...]] = [() for _ in keywords.SHAPES]
    for order, rule in rules:
        if rule.shape:
            shapes[keywords.SHAPES.index(rule.shape)] += ((order, rule),)
    return Plan(keywords.table(words), (*tried, *shapes), len(words))


def _locked(path: Text | None, texts: int) -> list[bool]:
    """Which texts are lockfiles."""
    if path is None:
        return [False] * texts
    return [bool(p) and bool(_LOCKFILES.search(p)) for p in path.to_pylist()]


def _holds(rule: Rule, match: re.Match[bytes], text: memoryview) -> bool:
    """Whether what has a rule's form is a secret."""
    last = match.lastindex or 0
    value = match[last]
    if rule.check == "token":
        return not stand_in(value)
    if rule.check == "password":
        return not guessable(value)
    before = bytes(text[max(0, match.start() - 80) : match.start()]).rpartition(b"\n")[2]
    if rule.check == "bare" and (_ATTRIBUTE.fullmatch(value) or not _LINE_START.search(before)):
        return False
    name = re.split(rb"[\s\"'(,]", before)[-1] + bytes(text[match.start() : match.start(last)])
    return not _PLAIN_NAME.search(name) and random(value)


def _shaped(shape: int, text: memoryview, at: int, kinds: Kinds) -> Iterator[Span]:
    """An e-mail or IP address that is to be replaced."""
    name = keywords.SHAPES[shape]
    if name == "email" and kinds.emails:
        match = _EMAIL.match(text, at)
        if match and _personal(match):
            yield match.start(1), _LAST, match.end(1), "<EMAIL>", "email"
    elif name in ("ipv4", "ipv6") and kinds.ips:
        match = (_IPV4 if name == "ipv4" else _IPV6).match(text, at)
        before = bytes(text[max(0, at - 32) : at]).rpartition(b"\n")[2]
        if match and _public(match[1].decode()) and not _VERSION.search(before):
            yield match.start(1), _LAST, match.end(1), "<IP_ADDRESS>", name


def _personal(match: re.Match[bytes]) -> bool:
    """Whether an address can be someone's: its domain is no reserved one, and a domain at all."""
    name, domain = match[1].partition(b"@")[0], match[2]
    known = len(match[3]) == 2 or match[3].lower() in _DOMAINS
    return known and name not in _NOT_PEOPLE and not _RESERVED.search(domain)


def _public(address: str) -> bool:
    """Whether an address belongs to somebody. Four numbers below ten are a version (ours)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if len(address) == 7 or address in _DNS.split():
        return False
    return ip.is_global and not ip.is_multicast


def _disjoint(spans: list[Span]) -> list[Span]:
    """In ascending order; of spans that overlap, the first."""
    kept: list[Span] = []
    for span in sorted(spans):
        if not kept or span[0] >= kept[-1][2]:
            kept.append(span)
    return kept


def _lists(found: dict[int, list[Span]], texts: int) -> pa.ListArray:
    """The spans of each text as schema.EDITS."""
    lengths = np.zeros(texts + 1, np.int32)
    for doc, spans in found.items():
        lengths[doc + 1] = len(spans)
    spans = [span for doc in sorted(found) for span in found[doc]]
    columns = [
        pa.array([span[at] for span in spans], field.type)
        for at, field in zip((0, 2, 3, 4), EDITS.value_type, strict=True)
    ]
    values = pa.StructArray.from_arrays(columns, fields=list(EDITS.value_type))
    return pa.ListArray.from_arrays(np.cumsum(lengths, dtype=np.int32), values).cast(EDITS)
