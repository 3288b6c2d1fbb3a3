"""What licences are called, how their files are told apart, and which of them a policy allows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.config import config, parse
from pipeline.core.errors import RecipeError
from pipeline.core.licence_table import BLUE_OAK, TEXTS
from pipeline.core.licences import (
    UNKNOWN,
    Policy,
    allowed,
    from_header,
    from_metadata,
    from_text,
    normalise,
    permissive,
    policy,
)

COMMON = Path("/usr/share/common-licenses")
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this
software and associated documentation files, subject to the following conditions: The above
copyright notice and this permission notice shall be included in all copies."""
BSD = """Redistribution and use in source and binary forms, with or without modification, are
permitted provided that the following conditions are met:
1. Redistributions of source code must retain the above copyright notice.
2. Redistributions in binary form must reproduce the above copyright notice.
"""
ISC = "Permission to use, copy, modify, and/or distribute this software for any purpose with or\nwithout fee is hereby granted"


@config
class Settings:
    licences: Policy = "any"


@pytest.mark.parametrize(
    ("name", "spdx"),
    [
        ("MIT", "MIT"),
        ("the MIT License (MIT)", "MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("Apache Software License", "Apache-2.0"),
        ("BSD", "BSD-3-Clause"),
        ("3-Clause BSD License", "BSD-3-Clause"),
        ("BSD License (3-clause)", "BSD-3-Clause"),
        ("BSD 2-Clause", "BSD-2-Clause"),
        ("GPLv2+", "GPL-2.0-or-later"),
        ("GPL-2.0", "GPL-2.0-only"),
        ("GPL v2 or (at your option) any later version", "GPL-2.0-or-later"),
        ("GNU General Public License v3 (GPLv3)", "GPL-3.0-only"),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", "LGPL-2.0-or-later"),
        ("GNU Affero General Public License v3", "AGPL-3.0-only"),
        ("GPL", "GPL-1.0-or-later"),
        ("Mozilla Public License, v. 2.0", "MPL-2.0"),
        ("zlib/libpng License", "Zlib"),
        ("The Unlicense (Unlicense)", "Unlicense"),
        ("UNLICENSED", "LicenseRef-scancode-proprietary-license"),
        ("Public Domain", "LicenseRef-scancode-public-domain"),
        ("BSD-2-Clause-FreeBSD", "BSD-2-Clause-Views"),
        ("Apache-2.0+", "Apache-2.0"),
        ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
        ("mit or (apache 2.0 and bsd)", "MIT OR (Apache-2.0 AND BSD-3-Clause)"),
        ("Apache-2.0 with llvm-exception", "Apache-2.0 WITH LLVM-exception"),
        ("GPL-3.0-or-later OR MIT", "GPL-3.0-or-later OR MIT"),
        ("LicenseRef-Mine AND MIT", "LicenseRef-Mine AND MIT"),
        ("Apache-2.0 (non-commercial)", None),
        ("MIT with restrictions", None),
        ("MIT WITH ISC", None),
        ("LLVM-exception", None),
        ("MIT AND", None),
        ("(MIT", None),
        ("MIT ( )", None),
        ("MIT MIT", None),
        ("our own terms", None),
        ("", None),
        ("MIT OR " * 300 + "MIT", None),
    ],
)
def test_names_and_expressions_become_spdx(name: str, spdx: str | None) -> None:
    assert normalise(name) == spdx
    assert spdx is None or normalise(spdx) == spdx


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        (MIT, "MIT"),
        (MIT + "\nExcept as contained in this notice, the name shall not be used.", "X11"),
        (MIT + "\nThe Software shall be used for Good, not Evil.", "JSON"),
        (BSD, "BSD-2-Clause"),
        (BSD + "3. Neither the name of the author may be used.", "BSD-3-Clause"),
        (BSD + "3. All advertising materials mentioning features", "BSD-4-Clause"),
        (ISC + ", provided that the above copyright notice", "ISC"),
        (ISC + ".\n\nTHE SOFTWARE IS PROVIDED AS IS", "0BSD"),
        ("Apache License\n  Version 2.0, January 2004", "Apache-2.0"),
        ("Licensed under the Apache License, Version 2.0 (the License)", "Apache-2.0"),
        ("GNU GENERAL PUBLIC LICENSE\n  Version 3, 29 June 2007", "GPL-3.0-only"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\nVersion 2.1, February 1999", "LGPL-2.1-only"),
        (
            "under the terms of the GNU General Public License as published by the Free Software\n"
            "Foundation, either version 2 of the License, or (at your option) any later version.",
            "GPL-2.0-or-later",
        ),
        ("Boost Software License - Version 1.0\nPermission is hereby granted, free of charge, to any person or organization", "BSL-1.0"),
        ("CC0 1.0 Universal", "CC0-1.0"),
        ("Creative Commons Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
        (f"{MIT}\n\nSome parts:\n{BSD}", "MIT AND BSD-2-Clause"),
        ("# MIT License\n", "MIT"),
        ("SPDX-License-Identifier: ISC\n", "ISC"),
        ("All of this is mine.", None),
        ("", None),
    ],
)  # fmt: skip
def test_licence_files_are_told_by_their_sentences(text: str, spdx: str | None) -> None:
    assert from_text(text) == spdx
    for prefix in ("# ", " * ", "// ", ";; ", "    "):
        lines = " ".join(text.split()).split(" ") if spdx and "\n" in text.strip() else []
        wrapped = "\n".join(
            f"{prefix}{' '.join(lines[i : i + 7])}" for i in range(0, len(lines), 7)
        )
        assert not lines or from_text(wrapped) == spdx


@pytest.mark.skipif(not COMMON.is_dir(), reason="no licence texts here")
def test_the_texts_that_debian_ships() -> None:
    told = {p.name: from_text(p.read_text(errors="replace")) for p in sorted(COMMON.iterdir())}
    expected = {
        "Apache-2.0": "Apache-2.0",
        "BSD": "BSD-3-Clause",
        "CC0-1.0": "CC0-1.0",
        "GPL-2": "GPL-2.0-only",
        "GPL-3": "GPL-3.0-only",
        "LGPL-2": "LGPL-2.0-only",
        "LGPL-2.1": "LGPL-2.1-only",
        "LGPL-3": "LGPL-3.0-only",
        "MPL-1.1": "MPL-1.1",
        "MPL-2.0": "MPL-2.0",
    }
    assert {name: told[name] for name in expected if name in told} == {
        name: spdx for name, spdx in expected.items() if name in told
    }


@pytest.mark.parametrize(
    ("head", "spdx"),
    [
        ("// SPDX-License-Identifier: MIT\nint x;\n", "MIT"),
        ("/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */", "GPL-2.0-only WITH Linux-syscall-note OR MIT"),
        ("<!-- SPDX-License-Identifier: Apache-2.0 -->", "Apache-2.0"),
        ("(* SPDX-License-Identifier: ISC *)", "ISC"),
        ("#!/bin/sh\n# SPDX-FileCopyrightText: 2020 Me\n#\n# SPDX-License-Identifier: MIT\r\n", "MIT"),
        ("# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: ISC OR MIT\n", "MIT AND (ISC OR MIT)"),
        ("# SPDX-License-Identifier: House-Rules-1.0\n", UNKNOWN),
        ("# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: House-Rules-1.0\n", UNKNOWN),
        ("# SPDX-License-Identifier: <identifier>\n", None),
        ("\n" * 20 + "# SPDX-License-Identifier: MIT\n", None),
        ("import os\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_headers_are_read(head: str, spdx: str | None) -> None:
    assert from_header(head) == spdx


@pytest.mark.parametrize(
    ("expression", "classifiers", "name", "spdx"),
    [
        ("MIT OR GPL-3.0-only", ["License :: OSI Approved :: BSD License"], None, "MIT OR GPL-3.0-only"),
        ("House-Rules-1.0", [], "MIT", UNKNOWN),
        (None, ["License :: OSI Approved :: BSD License"], "BSD-2-Clause", "BSD-2-Clause"),
        (None, ["License :: OSI Approved :: MIT License", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"], "see below", "GPL-3.0-only AND MIT"),
        (None, ["Topic :: Software Development"], MIT, "MIT"),
        (None, ["License :: OSI Approved :: ISC License (ISCL)"], MIT + BSD, "ISC"),
        (None, ["License :: Free For Educational Use"], None, UNKNOWN),
        (None, [], "ask us", UNKNOWN),
        (None, ["Topic :: Software Development"], " ", None),
        ("  ", [], None, None),
    ],
)  # fmt: skip
def test_metadata_that_states_something_unknown_is_not_unlicensed(
    expression: str | None, classifiers: list[str], name: str | None, spdx: str | None
) -> None:
    assert from_metadata(expression, classifiers, name) == spdx


@pytest.mark.parametrize(
    ("expression", "free", "listed"),
    [
        ("MIT", True, True),
        ("mit license", True, True),
        ("MIT OR GPL-3.0-only", True, True),
        ("GPL-3.0-only OR ISC", True, False),
        ("MIT AND GPL-3.0-only", False, False),
        ("MIT AND ISC", True, False),
        ("GPL-3.0-only AND (MIT OR ISC)", False, False),
        ("(GPL-3.0-only AND MIT) OR Apache-2.0", True, True),
        ("Apache-2.0 WITH LLVM-exception", True, True),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", False, False),
        ("GPL-3.0-or-later", False, False),
        ("Artistic-2.0", True, False),
        ("CC0-1.0", True, False),
        ("LicenseRef-Mine", False, False),
        ("Commons Clause", False, False),
        (UNKNOWN, False, False),
    ],
)
def test_policies(expression: str, free: bool, listed: bool) -> None:
    assert permissive(expression) is free
    assert allowed(expression, "permissive") is free
    assert allowed(expression, "permissive+unlicensed") is free
    assert allowed(expression, policy(["mit", "Apache-2.0"])) is listed
    assert allowed(expression, "any")


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_without_a_licence(nothing: str | None) -> None:
    assert allowed(nothing, "any")
    assert allowed(nothing, "permissive+unlicensed")
    assert not allowed(nothing, "permissive")
    assert not allowed(nothing, ("MIT",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("permisive", "licences is 'permisive': value error, 'permisive' is no policy; a list of"),
        ("permisive", "did you mean 'permissive'?"),
        (["MIT", "Apche-2.0"], "'Apche-2.0' is no SPDX identifier of a licence; did you mean 'Apache-2.0'?"),
        (["MIT License"], "did you mean 'MIT'?"),
        (["LLVM-exception"], "'LLVM-exception' is no SPDX identifier of a licence; see spdx.org"),
        ([], "[] is no policy; write any, permissive, permissive+unlicensed or a list"),
        (7, "7 is no policy"),
    ],
)  # fmt: skip
def test_a_policy_that_is_none_is_named(value: object, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse(Settings, {"licences": value}, "r.yaml: step raw")


def test_a_policy_has_one_form() -> None:
    given = parse(Settings, {"licences": ["mit", "Apache-2.0", "MIT"]}, "r.yaml")
    assert given.licences == ("Apache-2.0", "MIT")
    assert parse(Settings, {"licences": "permissive"}, "r.yaml").licences == "permissive"


def test_the_tables_hold_only_identifiers_that_exist() -> None:
    named = [row.split(": ")[0] for row in TEXTS.strip().split("\n")]
    assert [spdx for spdx in {*named, *BLUE_OAK} if normalise(spdx) != spdx] == []


def test_planning_does_not_load_the_licence_list() -> None:
    """The list takes tens of milliseconds; `icefloe plan` needs it only for a list of licences."""
    code = "import sys, pipeline.core.licences as l; l.policy('any'); assert 'license_expression' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


EXPRESSIONS = st.recursive(
    st.sampled_from(["MIT", "ISC", "Apache-2.0", "GPL-3.0-only", "MPL-2.0"]),
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, st.sets(st.sampled_from(["MIT", "ISC", "Apache-2.0"]), min_size=1))
def test_an_expression_is_what_python_makes_of_it(expression: str, ids: set[str]) -> None:
    spelled = re.sub(
        r"[A-Z][\w.-]+", lambda m: m[0] if m[0] in ("AND", "OR") else str(m[0] in ids), expression
    )
    truth = eval(spelled.replace("AND", "and").replace("OR", "or"))
    assert allowed(expression, tuple(sorted(ids))) is truth
    assert normalise(str(normalise(expression))) == normalise(expression)


@given(
    st.lists(
        st.sampled_from(
            ["MIT", "ISC", "(", ")", "AND", "OR", "WITH", "/", "LLVM-exception", "+", "x"]
        )
    ).map(" ".join)
)
def test_anything_is_answered_and_what_is_answered_is_stable(text: str) -> None:
    found = normalise(text)
    assert found is None or normalise(found) == found
    assert from_header(f"SPDX-License-Identifier: {text}") is None or isinstance(
        allowed(text, "permissive"), bool
    )
