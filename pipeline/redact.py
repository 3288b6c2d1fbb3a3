"""Personal data and secrets out of the text: e-mail addresses, public IPs, keys and tokens.

An edits layer: byte ranges and their placeholders (BigCode's), applied whenever the text is read.
The same secret gets the same placeholder everywhere. Regular expressions with a cheap test first;
names of people need a model and are not touched.
"""

import ipaddress
import re
from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import EDITS

VERSION = 1

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])"
)
_IP = re.compile(r"(?<![\d.])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\d.]|-\w)")
_KEYS = tuple(
    (mark, re.compile(form))
    for mark, form in (
        (
            "PRIVATE KEY-----",
            r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----[\s\S]{32,8000}?-----END \1-----",
        ),
        ("AKIA", r"\bAKIA[0-9A-Z]{16}\b"),
        ("ASIA", r"\bASIA[0-9A-Z]{16}\b"),
        *((f"gh{kind}_", rf"\bgh{kind}_[A-Za-z0-9]{{36,}}\b") for kind in "pousr"),
        ("github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{60,}\b"),
        ("glpat-", r"\bglpat-[A-Za-z0-9_-]{20,}"),
        ("xox", r"\bxox[abprs]-[A-Za-z0-9-]{10,}\b"),
        ("sk_live_", r"\bsk_live_[A-Za-z0-9]{20,}\b"),
        ("sk-", r"\bsk-(?:proj-)?[A-Za-z0-9_-]{32,}"),
        ("AIza", r"\bAIza[0-9A-Za-z_-]{35}"),
        ("hf_", r"\bhf_[A-Za-z0-9]{30,}\b"),
        ("npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
        ("pypi-", r"\bpypi-[A-Za-z0-9_-]{50,}"),
        ("SG.", r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
        ("eyJ", r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
    )
)
"""(what every match contains, its form): the cheap test keeps this at hundreds of MB/s."""
_RESERVED = re.compile(r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|localhost|invalid|test)\b", re.I)
_DNS = frozenset(
    [
        "8.8.8.8",
        "8.8.4.4",
        "1.1.1.1",
        "1.0.0.1",
        "9.9.9.9",
        "149.112.112.112",
        "208.67.222.222",
        "208.67.220.220",
    ]
)


@config
class Config:
    emails: bool = True
    """E-mail addresses -> `<EMAIL>`; example.com and the like stay (BigCode; the exemption is ours)."""
    ips: bool = True
    """Public IPv4 addresses -> `<IP_ADDRESS>`; private ones and popular DNS servers stay (BigCode)."""
    keys: bool = True
    """Private keys and tokens of known formats -> `<KEY>` (BigCode; formats as their issuers document)."""


def run(files: Files, cfg: Config, job: Job) -> None:
    job.layer(files, partial(redact, cfg=cfg), ["text"], kind="edits")


def redact(table: pa.Table, cfg: Config) -> pa.Table:
    """Every document kept, with its `edits` and how many there are as the value."""
    edits = [list(found(text, cfg)) for text in table["text"].to_pylist()]
    counts = [float(len(e)) for e in edits]
    return verdicts(table["uid"], [None] * len(edits), counts, edits=pa.array(edits, EDITS))


def found(text: str, cfg: Config) -> Iterator[dict[str, int | str]]:
    """The edits of one text: UTF-8 byte ranges, ascending, not overlapping."""
    at = 0
    byte = 0
    for start, end, name in sorted(spans(text, cfg)):
        if start < at:
            continue
        first = byte + len(text[at:start].encode())
        last = first + len(text[start:end].encode())
        yield {"start": first, "end": last, "text": name}
        at, byte = end, last


def spans(text: str, cfg: Config) -> Iterator[tuple[int, int, str]]:
    """(start, end, placeholder) in characters, unsorted."""
    for mark, form in _KEYS if cfg.keys else ():
        if mark in text:
            yield from ((m.start(), m.end(), "<KEY>") for m in form.finditer(text))
    if cfg.emails and "@" in text:
        yield from (
            (m.start(), m.end(), "<EMAIL>")
            for m in _EMAIL.finditer(text)
            if not _RESERVED.search(m[0])
        )
    if cfg.ips:
        yield from (
            (m.start(), m.end(), "<IP_ADDRESS>") for m in _IP.finditer(text) if _public(m[0])
        )


def _public(address: str) -> bool:
    try:
        return ipaddress.IPv4Address(address).is_global and address not in _DNS
    except ValueError:
        return False
