"""Whether a string is random, a word, or a stand-in: what tells a secret from `password="changeme"`.

Shannon entropy as in detect-secrets; a string is a word where its runs of letters are made of
English's common letter pairs (method and thresholds ours). Knows nothing of where the string stood.
"""

import re
from collections import Counter
from math import log2

_PAIRS = b"""
th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me
de hi ri ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot
il tr ly nc et ut ss so rs un lo wa ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai
sh ir su id os iv ia am fi ci vi pl ig tu ev ld ry mp fe bl ab gh ty op wo sa ay ex ke fr oo av ag
if ap gr od bo sp rd do uc bu ei ov by rm ep tt oc fa ef cu rn sc gi da yo cr cl du ga qu ue ff ba
ey ls va um pp ua up lu go ht ru ug ds lt pi rc rr eg au ck ew mu br bi pt ak pu ui rg ib tl ny ki
rk ys ob mm fu ph og ms ye ud
"""
_COMMON = frozenset(_PAIRS.split())
_RUNS = re.compile(rb"[A-Z]?[a-z]{3,}|[A-Z]{4,}")
_CAMEL = re.compile(rb"[A-Z]*[a-z]+|[A-Z]+")
_HEX = re.compile(rb"(?:0x)?[0-9a-fA-F]+")
_UUID = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.I)
_STAND_IN = re.compile(
    rb"example|sample|change.?me|change.?it|replace|placeholder|dummy|redacted|insert|xxxx|\*\*\*|"
    rb"\.\.\.|\{\{|\$\{|\$\(|%\(|%s|<|\[\[|process\.env|environ|getenv|config\.|settings\.|secrets\.|"
    rb"default|password|passwd|secret|credential|api[-_]?key|abcdef|qwerty|123456|foobar|lorem|"
    rb"deadbeef|\[a-|\]\{\d|^(?:your|fake|todo|test|foo|some|my[-_])",
    re.I,
)
_PART = rb"(?:(?:[A-Z][a-z]+){0,2}[A-Z]?[a-z]+\d{0,2}|[A-Z]+\d{0,2}|\d{1,8}[a-z]?)"
_NAME = re.compile(
    rb"v?%b(?:[-_./:+]%b)+|[a-z]+[24][a-z]+|/[a-z][a-z0-9_.-]*(?:/[\w.-]*)*|(?:.*:)?//.*"
    % (_PART, _PART),
    re.S,
)
"""Words and numbers with signs between, as in names and versions; paths; addresses."""
_REPEATED = re.compile(
    rb"(.)\1{5}|0123456789|1234567890|abcdefghij|example|Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6",
    re.I | re.S,
)
"""The last is the key that Azure's storage emulator publishes."""


def entropy(value: bytes) -> float:
    """Shannon entropy in bits a byte; 0 for an empty string."""
    counts = Counter(value).values()
    return -sum(n / len(value) * log2(n / len(value)) for n in counts)


def stand_in(value: bytes) -> bool:
    """Whether a token of a known form is one from a manual: one sign six times running, the digits
    or the alphabet in order, the word `example`, or two signs in all (ours)."""
    return bool(_REPEATED.search(value)) or entropy(value) < 2.0


def random(value: bytes) -> bool:
    """Whether a value assigned to a secret-like name is a secret and neither word, path, UUID, name
    nor stand-in.

    At least 80 % of the entropy that as many different signs would have, and no more than 3.3 bits
    asked (hexadecimal 2.6): a random string of 8 to 64 signs has that in 99.9 % (ours).
    """
    if any(f.search(value) for f in (_UUID, _STAND_IN)) or _NAME.fullmatch(value):
        return False
    if not _mixed(value) or stand_in(value):
        return False
    wanted = 2.6 if _HEX.fullmatch(value) else min(3.3, 0.8 * log2(len(value)))
    return entropy(value) >= wanted and not wordy(value)


def guessable(value: bytes) -> bool:
    """Whether a password in a URL or connection string is plainly a stand-in or a word."""
    return bool(_STAND_IN.search(value)) or value.isdigit() or (value.isalpha() and wordy(value, 2))


def wordy(value: bytes, part: int | None = None) -> bool:
    """Whether 1 / part of the characters lie in runs of letters that are made of common letter pairs.

    part: 2, and 4 for long capitalised runs without digits, as names of classes are (ours).
    """
    runs = [m[0] for m in _RUNS.finditer(value)]
    covered = sum(len(run) for run in runs if _spoken(run))
    camel = len(_CAMEL.findall(value)) * 4 <= len(value) and value.isalpha()
    return (part or (4 if camel else 2)) * covered >= len(value)


def _spoken(run: bytes) -> bool:
    """70 % common pairs; 60 % in a run with a capital, which a random string has less often."""
    pairs = [run[i : i + 2].lower() for i in range(len(run) - 1)]
    return sum(p in _COMMON for p in pairs) >= (0.6 if run[:1].isupper() else 0.7) * len(pairs)


def _mixed(value: bytes) -> bool:
    """Letters and digits; or sixteen letters and more of both cases."""
    letters = sum(65 <= c <= 90 or 97 <= c <= 122 for c in value)
    digits = sum(48 <= c <= 57 for c in value)
    cased = value != value.lower() and value != value.upper()
    return letters > 0 and (digits > 0 or (len(value) >= 16 and cased))
