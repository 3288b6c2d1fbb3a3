"""Which leading comments are licence headers, and that shebangs and code stay."""

import pytest

from pipeline.kernels.headers import header

PYTHON = "# Copyright 2020 Ada\n# Licensed under the MIT License\n"
C = "/*\n * Copyright (c) 2020 Ada.\n * All rights reserved.\n */\n"


@pytest.mark.parametrize(
    ("before", "comment", "after", "language"),
    [
        ("", PYTHON, "import x\n", "Python"),
        ("#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n\n", PYTHON, "\nimport x\n", "Python"),
        ("", C, "#include <x.h>\n", "C"),
        ("\ufeff", "// SPDX-License-Identifier: MIT\n", "package x\n", "Go"),
        ("<?php\n", C, "echo 1;\n", "PHP"),
        ("<?xml version='1.0'?>\n", "<!-- Copyright Ada -->\n", "<x/>\n", "XML"),
        ("", "-- Copyright Ada\n", "return 1\n", "Lua"),
        ("", ";; Copyright Ada\n", "(ns x)\n", "Clojure"),
        ("", "% Copyright Ada\n", "-module(x).\n", "Erlang"),
        ("", "# Copyright Ada", "", "Ruby"),
    ],
)
def test_header(before: str, comment: str, after: str, language: str) -> None:
    raw = (before + comment + after).encode()
    start, end = header(raw, language) or (0, 0)
    assert raw[:start] + raw[end:] == (before + after).encode()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("# Adds numbers\nimport x\n", "Python"),
        ('"""Copyright Ada"""\nimport x\n', "Python"),
        ("import x\n# Copyright Ada\n", "Python"),
        ("# Copyright and other laws\n", "Markdown"),
        ("#include <license.h>\n", "C"),
        ("/* Copyright Ada */ int x;\n", "C"),
        ("/* Copyright, never closed\n", "C"),
        (PYTHON, None),
        ("", "Python"),
    ],
)
def test_no_header(text: str, language: str | None) -> None:
    assert header(text.encode(), language) is None
