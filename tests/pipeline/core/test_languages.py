"""Names, extensions, content rules, #! lines and modes lead to the language GitHub would name."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.language_rules import RULES
from pipeline.core.language_table import EXTENSIONS, INTERPRETERS, MODES, NAMES
from pipeline.core.languages import language_of


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b/c.py", "Python"),
        ("A/B/C.PY", "Python"),
        ("src/x.tsx", "TypeScript"),
        ("x.d.ts", "TypeScript"),
        ("a.fish", "Shell"),
        ("x.cu", "Cuda"),
        ("x.pyx", "Cython"),
        ("a/Makefile", "Makefile"),
        ("a/Makefile.am", "Makefile"),
        ("Dockerfile.dev", "Dockerfile"),
        ("CMakeLists.txt", "CMake"),
        ("makefile.cpython-311.pyc", None),
        ("x/BUILD", "Starlark"),
        ("x/build", None),
        (".bashrc", "Shell"),
        ("go.mod", "Go Module"),
        ("requirements.txt", "Text"),
        ("dev-requirements-3.txt", "Text"),
        ("README.txt", "Text"),
        ("todo.txt", "Text"),
        ("words.txt", None),
        ("README", None),
        ("x.ipynb", "Jupyter Notebook"),
        ("lib.so.1", None),
        ("noext", None),
        (".py", None),
        ("x.", None),
        ("a.py/x", None),
        ("", None),
        ("x.h", "C"),
        ("x.m", "Objective-C"),
        ("x.pl", "Perl"),
        ("x.v", "Verilog"),
        ("x.inc", None),
    ],
)
def test_the_name_alone(path: str, language: str | None) -> None:
    assert language_of(path) == language


@pytest.mark.parametrize(
    ("path", "head", "language"),
    [
        ("a.h", "#include <stdio.h>\nint f(void);\n/* class of things */\n", "C"),
        ("a.h", "#ifndef A\n#include <vector>\n", "C++"),
        ("a.h", "  template <typename T>\nT f(T);\n", "C++"),
        ("a.h", "namespace a {\n}\n", "C++"),
        ("a.h", "class Box : public Shape {\n", "C++"),
        ("a.h", "// -*- C++ -*-\n", "C++"),
        ("a.h", "/* -*- Mode: C; tab-width: 4 -*- */\nint x;\n", "C"),
        ("a.h", "#import <Foundation/Foundation.h>\n@interface A\n", "Objective-C"),
        ("a.m", "#import <Foundation/Foundation.h>\n", "Objective-C"),
        ("a.m", "function y = f(x)\n% twice\ny = 2 * x;\nend\n", "MATLAB"),
        ("a.m", "x = linspace(0, 1);\nplot(x)\n", "MATLAB"),
        ("a.m", "(* a note *)\nf[x_] := x^2\n", "Mathematica"),
        ("a.m", ":- module a.\n", "Mercury"),
        ("a.pl", "use strict;\nmy ($x) = @_;\n", "Perl"),
        ("a.pl", "parent(X, Y) :- father(X, Y).\n", "Prolog"),
        ("a.pl", ":- use_module(library(lists)).\n", "Prolog"),
        ("a.pl", "use v6;\nsay 'hi';\n", "Raku"),
        ("a.pl", "print 'hi';\n", "Perl"),
        ("a.pm", "/* XPM */\n", "X PixMap"),
        ("a.ts", "const x: number = 1\n", "TypeScript"),
        ("a.ts", '\ufeff<?xml version="1.0"?>\n<!DOCTYPE TS>\n', "XML"),
        ("a.tsx", "<tileset name='a'>\n", "XML"),
        ("a.v", "module top (input clk);\nalways @(*) x = 1;\nendmodule\n", "Verilog"),
        ("a.v", "Require Import List.\nLemma a : True.\nProof. exact I. Qed.\n", "Coq"),
        ("a.v", "module main\n\nimport os\n\nfn main() {\n}\n", "V"),
        ("a.r", "x <- c(1, 2)\n", "R"),
        ("a.r", 'REBOL [Title: "x"]\n', "Rebol"),
        ("a.d", "module a;\nimport std.stdio;\n", "D"),
        ("a.d", "main.o: main.c \\\n a.h\n", "Makefile"),
        ("a.d", "syscall::read:entry\n{\n}\n", "DTrace"),
        ("a.fs", "module A\nlet x = 1\n", "F#"),
        ("a.fs", "#version 330\nvoid main() {}\n", "GLSL"),
        ("a.fs", ": square dup * ;\n", "Forth"),
        ("a.inc", "<?php\n", "PHP"),
        ("a.inc", "inherit cmake\n", "BitBake"),
        ("a.inc", "what?\n", None),
        ("a.cls", "\\ProvidesClass{a}\n", "TeX"),
        ("a.cls", "public with sharing class A {\n", "Apex"),
        ("a.cls", 'VERSION 1.0 CLASS\nAttribute VB_Name = "A"\n', "VBA"),
        ("a.t", "use Test::More;\n", "Perl"),
        ("a.t", "use v6;\nuse Test;\n", "Raku"),
        ("a.md", "# Title\n", "Markdown"),
        ("a.ml", "let x = 1\n", "OCaml"),
        ("a.ml", "structure A = struct end\n", "Standard ML"),
        ("page.1", ".TH LS 1\n.SH NAME\n", "Roff"),
        ("lib.so.1", "\x7fELF", None),
    ],
)
def test_the_first_bytes_settle_what_the_name_leaves_open(
    path: str, head: str, language: str | None
) -> None:
    assert language_of(path, head.encode()) == language
    assert language_of(path, head.replace("\n", "\r\n").encode()) == language


@pytest.mark.parametrize(
    ("head", "language"),
    [
        ("#!/bin/sh\n", "Shell"),
        ("#! /usr/bin/python3.11 -u\n", "Python"),
        ("#!/usr/bin/env python\n", "Python"),
        ("#!/usr/bin/env -S X=1 node --no-warnings\n", "JavaScript"),
        ("#!/usr/bin/env\n", None),
        ("#!\n", None),
        ("#!/usr/bin/nothing-known\n", None),
        ("#!/usr/bin/env Rscript", "R"),
        ("// -*- C++ -*-\n", "C++"),
        ("# -*- mode: ruby -*-\n# vi: set ft=ruby :\n", "Ruby"),
        ("x\n# vim: set ft=python ts=4:\n", "Python"),
        ("# -*- coding: utf-8 -*-\n", None),
        ("a\nb\nc\nd\ne\n# vim: ft=python\n", None),
        ("plain words\n", None),
        ("", None),
    ],
)
def test_a_name_that_says_nothing_leaves_it_to_the_first_lines(
    head: str, language: str | None
) -> None:
    assert language_of("tool", head.encode()) == language
    assert language_of("bin/tool.unknown", head.encode()) == language
    assert language_of("tool.py", head.encode()) == "Python"


def test_the_table_names_each_extension_and_name_once() -> None:
    for table in (EXTENSIONS, NAMES, INTERPRETERS, MODES):
        words = Counter(word for row in table.values() for word in row.split())
        assert [word for word, n in words.items() if n > 1] == []
    assert all(word == word.lower() for row in EXTENSIONS.values() for word in row.split())


def test_a_rule_that_always_holds_stands_last() -> None:
    for extension, rules in RULES.items():
        assert all(rule for _, rule in rules[:-1]), extension


@given(st.text(max_size=30), st.binary(max_size=300))
def test_any_name_and_any_bytes_are_answered(path: str, head: bytes) -> None:
    found = language_of(path, head)
    assert found is None or found in {
        *EXTENSIONS,
        *NAMES,
        *INTERPRETERS,
        *(language for rules in RULES.values() for language, _ in rules),
        "Text",
    }


@given(st.sampled_from(sorted(RULES)), st.binary(max_size=300))
def test_a_rule_never_makes_a_known_extension_unknown(extension: str, head: bytes) -> None:
    if language_of(f"x.{extension}") is not None:
        assert language_of(f"x.{extension}", head) is not None
