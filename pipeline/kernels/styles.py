"""How each language writes comments and strings, by GitHub's names for the languages.

Enough to tell comments, strings and code apart without a parser; ours. Knows nothing of texts.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How a language writes comments and strings. `line`: up to two markers of 1 or 2 bytes; `block`:
    one pair of at most 4 bytes; `quotes`: those of one line; `raw`: those that go on over lines, in
    which, if `literal`, a backslash is no escape; `triple`: Python's."""

    line: tuple[bytes, ...] = ()
    block: tuple[bytes, bytes] = (b"", b"")
    quotes: bytes = b""
    raw: bytes = b""
    triple: bool = False
    literal: bool = False


_C = Style((b"//",), (b"/*", b"*/"), b"\"'")
_HASH = Style((b"#",), quotes=b"\"'")
_DASH = Style((b"--",), (b"/*", b"*/"), b"\"'")
_MARKUP = Style(block=(b"<!--", b"-->"))
_SEMICOLON = Style((b";",), quotes=b'"')
_STYLES: dict[Style, str] = {
    _C: "C|C++|CUDA|Cuda|C#|Java|Kotlin|Scala|Dart|Objective-C|Objective-C++|Protocol Buffer|Thrift|"
    "GLSL|HLSL|Solidity|Zig|D|Groovy|Gradle|Vala|Apex|ActionScript|OpenCL|AIDL|Less|SCSS|Sass|Pug|"
    "Stylus|Metal|Odin|Processing|QML|SourcePawn|ShaderLab|ReScript|Bluespec|Yacc|Lex|Ragel|WGSL|"
    "TypeSpec|Bicep|Typst|OpenSCAD|Alloy|POV-Ray SDL|Go Module|SuperCollider|Stata|SQF|Dafny",
    Style((b"//",), (b"/*", b"*/"), b"\"'", b"`"): "JavaScript|TypeScript|TSX|Vue|Svelte",
    Style((b"//",), (b"/*", b"*/"), b"\"'", b"`", literal=True): "Go",
    Style((b"//",), (b"/*", b"*/"), b'"'): "Rust|Swift|Verilog|SystemVerilog|F#|Haxe",
    Style((b"//", b"#"), (b"/*", b"*/"), b"\"'"): "PHP|HCL|Terraform|Jsonnet|Hack",
    Style(block=(b"/*", b"*/"), quotes=b"\"'"): "CSS|SAS|Linker Script",
    Style((b"#",), quotes=b"\"'", triple=True): "Python|Cython|Starlark|GDScript|Mojo|Vyper",
    _HASH: "Shell|Ruby|Perl|R|YAML|TOML|Makefile|Dockerfile|CMake|Elixir|Tcl|Just|Nix|Awk|Raku|Meson|"
    "Crystal|Ignore List|Puppet|Open Policy Agent|GraphQL|CoffeeScript|Gherkin|Nginx|RobotFramework|"
    "Java Properties|BitBake|Gnuplot|Turtle|SPARQL|QMake|Cap'n Proto",
    Style((b"#",), (b"#=", b"=#"), b'"'): "Julia",
    Style((b"#",), (b"#[", b"]#"), b'"'): "Nim",
    Style((b"#",), (b"<#", b"#>"), b"\"'"): "PowerShell",
    _DASH: "SQL|PLpgSQL|PLSQL|TSQL",
    Style((b"--",), (b"--[[", b"]]"), b"\"'"): "Lua",
    Style((b"--",), (b"{-", b"-}"), b'"'): "Haskell|Elm|PureScript|Idris|Agda",
    Style((b"--",), quotes=b'"'): "VHDL|Ada|Lean|AppleScript",
    Style(block=(b"(*", b"*)"), quotes=b'"'): "OCaml|Standard ML|Coq|Rocq Prover|Isabelle",
    Style((b"//",), (b"{", b"}"), b"'"): "Pascal",
    Style((b"!",), quotes=b"\"'"): "Fortran|Fortran Free Form",
    Style((b"%",)): "TeX|Erlang|MATLAB|Prolog|PostScript|BibTeX Style",
    _SEMICOLON: "Assembly|Clojure|Common Lisp|Emacs Lisp|Scheme|Racket|INI|LLVM|AutoHotkey|Lisp|NASM",
    _MARKUP: "HTML|XML|XSLT|SVG|Markdown|MDX|RMarkdown|HTML+ERB|HTML+EEX|EJS|Handlebars|Mustache|Astro|"
    "Mako|ASP.NET|Java Server Pages|ColdFusion",
    Style(block=(b"{#", b"#}")): "Jinja|Twig|Nunjucks",
    Style((b"'",), quotes=b'"'): "Visual Basic .NET|VBA|BASIC",
    Style((b"..",)): "reStructuredText",
}
STYLE_OF = {name: style for style, names in _STYLES.items() for name in names.split("|")}
"""Language -> its style; a language that is not here has no comments that we know of."""
