"""Licences: an SPDX identifier from metadata or from a licence file's text, and which are permissive."""

import re
from collections.abc import Iterable

PERMISSIVE = frozenset(
    [
        "MIT",
        "MIT-0",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "0BSD",
        "ISC",
        "Unlicense",
        "Zlib",
        "PSF-2.0",
        "Python-2.0",
        "BSL-1.0",
        "CC0-1.0",
        "HPND",
        "PostgreSQL",
        "NCSA",
        "Artistic-2.0",
        "CNRI-Python",
    ]
)
"""Common identifiers among Blue Oak's and ScanCode's permissive and public-domain lists (StarCoder2)."""

_CLASSIFIERS = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "zlib/libpng License": "Zlib",
}
_NAMES = {
    "mit": "MIT",
    "mit license": "MIT",
    "apache 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "psf": "PSF-2.0",
    "isc": "ISC",
    "mpl-2.0": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "unlicense": "Unlicense",
}
_TEXTS = (
    ("Apache-2.0", r"Apache License\s+Version 2\.0"),
    ("MPL-2.0", r"Mozilla Public License,? (?:Version )?2\.0"),
    ("AGPL-3.0-only", r"GNU AFFERO GENERAL PUBLIC LICENSE"),
    ("LGPL-3.0-only", r"GNU LESSER GENERAL PUBLIC"),
    ("GPL-3.0-only", r"GNU GENERAL PUBLIC LICENSE\s+Version 3"),
    ("GPL-2.0-only", r"GNU GENERAL PUBLIC LICENSE\s+Version 2"),
    ("PSF-2.0", r"PYTHON SOFTWARE FOUNDATION LICENSE"),
    ("Unlicense", r"released into the public domain"),
    (
        "BSD-3-Clause",
        r"Redistribution and use in source and binary forms[\s\S]*[Nn]either the name",
    ),
    ("BSD-2-Clause", r"Redistribution and use in source and binary forms"),
    ("ISC", r"Permission to use, copy, modify, and(?:/or)? distribute this software"),
    ("MIT", r"Permission is hereby granted, free of charge"),
)
FILE = re.compile(r"^(licen[cs]e|copying|unlicense)([.-].*)?$", re.I)
"""Names of licence files."""


def from_metadata(
    expression: str | None, classifiers: Iterable[str], name: str | None
) -> str | None:
    """SPDX from a Python distribution: its License-Expression, classifiers, or License field."""
    if expression:
        return expression
    found = [
        _CLASSIFIERS.get(c.split(" :: ")[-1]) for c in classifiers if c.startswith("License ::")
    ]
    known = sorted({f for f in found if f})
    if known:
        return " OR ".join(known)
    return _NAMES.get((name or "").strip().lower()) or (from_text(name) if name else None)


def from_text(text: str) -> str | None:
    """SPDX from the text of a licence file, by its telling sentence; None when none is known."""
    return next((spdx for spdx, telling in _TEXTS if re.search(telling, text)), None)


def permissive(expression: str | None) -> bool:
    """Whether an SPDX expression can be met with permissive licences alone."""
    if not expression:
        return False
    choices = re.sub(r"[()]", " ", expression).split(" OR ")
    return any(_all_permissive(choice) for choice in choices)


def _all_permissive(choice: str) -> bool:
    terms = [t.split(" WITH ")[0].strip() for t in choice.split(" AND ")]
    return bool(terms) and all(t in PERMISSIVE for t in terms)
