"""File name -> programming language, by GitHub's names for them."""

_BY_EXTENSION = {
    "Python": "py pyi pyw pyx pxd pxi",
    "C": "c h",
    "C++": "cc cpp cxx c++ hh hpp hxx inl ipp tpp",
    "CUDA": "cu cuh",
    "C#": "cs",
    "Java": "java",
    "JavaScript": "js mjs cjs jsx",
    "TypeScript": "ts tsx mts cts",
    "Go": "go",
    "Rust": "rs",
    "PHP": "php",
    "Ruby": "rb",
    "SQL": "sql",
    "Scala": "scala sc",
    "Kotlin": "kt kts",
    "Shell": "sh bash zsh fish",
    "Dart": "dart",
    "Swift": "swift",
    "Lua": "lua",
    "Perl": "pl pm",
    "R": "r",
    "Julia": "jl",
    "Haskell": "hs",
    "OCaml": "ml mli",
    "Elixir": "ex exs",
    "Erlang": "erl hrl",
    "Clojure": "clj cljs",
    "Objective-C": "m mm",
    "Fortran": "f f90 f95 for",
    "Assembly": "asm s",
    "HTML": "html htm",
    "CSS": "css",
    "SCSS": "scss",
    "Less": "less",
    "Vue": "vue",
    "Svelte": "svelte",
    "Jupyter Notebook": "ipynb",
    "Markdown": "md markdown",
    "reStructuredText": "rst",
    "TeX": "tex",
    "JSON": "json",
    "YAML": "yaml yml",
    "TOML": "toml",
    "XML": "xml xsd xsl xslt",
    "CMake": "cmake",
    "Protocol Buffer": "proto",
    "Thrift": "thrift",
    "PowerShell": "ps1",
    "Batchfile": "bat cmd",
    "Tcl": "tcl",
    "Zig": "zig",
    "Nim": "nim",
    "D": "d",
    "Pascal": "pas",
    "Verilog": "v sv",
    "VHDL": "vhd vhdl",
    "GLSL": "glsl vert frag",
    "Solidity": "sol",
    "Jinja": "j2 jinja",
}
_BY_NAME = {
    "makefile": "Makefile",
    "dockerfile": "Dockerfile",
    "cmakelists.txt": "CMake",
    "justfile": "Just",
}
_EXTENSIONS = {e: language for language, ends in _BY_EXTENSION.items() for e in ends.split()}


def language_of(path: str) -> str | None:
    """The language of a file name, or None when it is no source file we know."""
    name = path.rsplit("/", 1)[-1].lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    stem, dot, extension = name.rpartition(".")
    return _EXTENSIONS.get(extension) if dot and stem else None
