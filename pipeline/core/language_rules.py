"""Telling lines of languages that share a file extension: their own syntax, as byte patterns.

Data only, for `languages`; `^` and `$` are a line's, and lines end in \\n.
"""

_CPP = (
    rb"^[ \t]*(?:#[ \t]*include[ \t]*<(?:algorithm|array|atomic|bitset|chrono|deque|exception|fstream"
    rb"|functional|initializer_list|iomanip|ios|iosfwd|iostream|istream|iterator|limits|list|map|memory"
    rb"|mutex|new|numeric|optional|ostream|queue|random|set|span|sstream|stack|stdexcept|streambuf"
    rb"|string|string_view|thread|tuple|type_traits|typeinfo|unordered_map|unordered_set|utility"
    rb"|variant|vector|c(?:assert|ctype|float|limits|math|stdarg|stddef|stdint|stdio|stdlib|string"
    rb"|time|wchar))>|template[ \t]*<|(?:inline[ \t]+)?namespace(?:[ \t]+[\w:]+)?[ \t]*(?:\{|$)"
    rb"|class[ \t]+(?:\w+[ \t]+){0,2}\w+[ \t]*(?:final[ \t]*)?(?:[:{;]|$)"
    rb"|(?:public|private|protected)(?:[ \t]+slots)?[ \t]*:|using[ \t]+(?:namespace[ \t]+)?[\w:]+[ \t]*[;=]"
    rb"|virtual[ \t]+[^\n;]*\(|explicit[ \t]+\w+\(|friend[ \t]+class[ \t]|constexpr[ \t]+\w"
    rb'|extern[ \t]+"C\+\+")|\bstd::\w'
)
_OBJC = (
    rb"^[ \t]*(?:@(?:interface|implementation|protocol|class|end|import|property|autoreleasepool)\b"
    rb"|#[ \t]*import[ \t]+[\"<])"
)
_PERL = (
    rb"^[ \t]*(?:use[ \t]+(?:v?5|strict|warnings|utf8|lib|[A-Z]\w*)|package[ \t]+\w|no[ \t]+strict"
    rb"|(?:my|our|local)[ \t]*\()|^#![^\n]*\bperl\b(?!6)"
)
_RAKU_SURELY = (
    rb"^[ \t]*(?:use[ \t]+v6|unit[ \t]+(?:module|class|role|grammar)\b)|^#![^\n]*(?:raku|perl6)"
)
_RAKU = rb"^[ \t]*(?:my[ \t]+)?(?:role|grammar|module|class)[ \t]+[\w:-]+[^\n;]*\{"
_CAMELS = (("Raku", _RAKU_SURELY), ("Perl", _PERL), ("Raku", _RAKU))
_PROLOG = rb"^[a-z]\w*(?:\([^\n]*\))?[ \t]*:-|^:-[ \t]*[a-z]|^#![^\n]*(?:swipl|prolog)"
_MAN = (("Roff", rb"^\.(?:TH|Dd|so)\b|^'\\\" t"),)
_FORTH = rb"^(?:: \S|\\ )"

RULES: dict[str, tuple[tuple[str, bytes], ...]] = {
    "as": (
        ("ActionScript", rb"^[ \t]*(?:package\b|import[ \t]+\w)"),
        ("AngelScript", rb"^#include\b"),
    ),
    "bas": (
        ("VBA", rb"^Attribute[ \t]+VB_Name"),
        ("FreeBASIC", rb"(?i)^[ \t]*(?:#lang|#include|dim[ \t]+(?:shared[ \t]+)?as)\b"),
    ),
    "bb": (("Clojure", rb"\A(?:\s*;[^\n]*\n|#![^\n]*\n)*\s*\("), ("BitBake", rb"=")),
    "cl": (
        ("Common Lisp", rb"^[ \t]*\((?:def\w+|in-package|declaim|require|let)\b"),
        ("OpenCL", rb"\bkernel\b|__(?:kernel|global|local)\b"),
    ),
    "cls": (
        ("TeX", rb"\\(?:NeedsTeXFormat|ProvidesClass|LoadClass|documentclass)\b"),
        ("VBA", rb"^Attribute[ \t]+VB_"),
        ("ObjectScript", rb"^Class[ \t]+%?\w+\.\w"),
        ("OpenEdge ABL", rb"(?i)^[ \t]*class[ \t]+[\w.]+[^\n{]*:[ \t\r]*$"),
        (
            "Apex",
            rb"(?i)^[ \t]*(?:(?:global|public|private|virtual|abstract|with|without|inherited|sharing)"
            rb"[ \t]+)+(?:class|interface|enum)[ \t]+\w",
        ),
    ),
    "d": (
        (
            "DTrace",
            rb"^(?:\w*:\w*:\w*:[\w-]*|BEGIN|END)[ \t]*(?:[,/{]|$)|^#pragma[ \t]+D\b|^#!.*dtrace",
        ),
        (
            "Makefile",
            rb"^[^\s:#][^\s:]*\.(?:o|lo|d|obj|rlib|rmeta|so|a)(?:[ \t]+[^\s:]+)*[ \t]*:(?:[ \t]|$)",
        ),
    ),
    "e": (
        ("Eiffel", rb"^[ \t]*(?:(?:deferred|expanded)[ \t]+)?(?:class|feature|note|indexing)\b"),
    ),
    "f": (("Forth", _FORTH),),
    "for": (("Forth", _FORTH),),
    "fs": (
        (
            "GLSL",
            rb"^[ \t]*(?:#version[ \t]+\d|precision[ \t]+\w+p\b|uniform[ \t]|varying[ \t]|void[ \t]+main)",
        ),
        ("Forth", _FORTH),
    ),
    "gd": (("GAP", rb"^[ \t]*(?:Declare\w+|InstallMethod|BindGlobal)\("),),
    "h": (("Objective-C", _OBJC), ("C++", _CPP), ("C", rb"")),
    "hh": (("Hack", rb"\A<\?hh"), ("C++", rb"")),
    "inc": (
        ("PHP", rb"<\?(?:php|=)"),
        ("SourcePawn", rb"^#include[ \t]+<sourcemod>|^native[ \t]+\w"),
        (
            "BitBake",
            rb"^(?:inherit|require)[ \t]+[\w/.-]+[ \t]*$|^[A-Z_]+(?::\w+)*[ \t]*(?:\?\?=|\?=|\.=)",
        ),
        ("Pascal", rb"(?i)^[ \t]*(?:\{\$|(?:procedure|function)[ \t]+\w+[^\n{]*;)"),
        (
            "Assembly",
            rb"(?i)^[ \t]*(?:\.(?:globl|macro|text|section)|%(?:define|macro)|\w+[ \t]+equ)\b",
        ),
        (
            "C++",
            rb"^[ \t]*(?:#[ \t]*(?:include|define|ifn?def|if|pragma)\b|template[ \t]*<|namespace\b)",
        ),
        ("HTML", rb"(?i)^[ \t]*<(?:div|table|html|script|link|p|ul)\b"),
    ),
    "l": (
        ("Common Lisp", rb"^[ \t]*\((?:def\w+|in-package)\b"),
        ("Roff", rb"^\.[A-Za-z]{2}\b"),
        ("Lex", rb""),
    ),
    "m": (
        ("Mercury", rb"^:-[ \t]*module\b"),
        ("Objective-C", _OBJC + rb"|^[ \t]*(?:#[ \t]*(?:include|define|ifn?def|pragma)\b|//|/\*)"),
        ("Mathematica", rb"^[ \t]*\(\*|\bBeginPackage\[|^[ \t]*\w+\[[^\]\n]*_[^\n]*:="),
        ("M", rb"\A[ \t]*\w*[ \t]*;"),
        ("MATLAB", rb""),
    ),
    "md": (
        ("GCC Machine Description", rb"^\(define_\w+|^;;[^\n]*[Mm]achine description"),
        ("Markdown", rb""),
    ),
    "ml": (
        ("OCaml", rb"^[ \t]*(?:let|open|external|module|exception)[ \t]+\w"),
        ("Standard ML", rb"^[ \t]*(?:structure|signature|functor|datatype|fun|val)[ \t]+\w"),
    ),
    "mod": (
        ("XML", rb"\A\s*<(?:\?xml|!ELEMENT|!--)"),
        ("Modula-2", rb"^[ \t]*(?:(?:IMPLEMENTATION|DEFINITION)[ \t]+)?MODULE[ \t]+\w+"),
    ),
    "php": (("Hack", rb"\A<\?hh"), ("PHP", rb"")),
    "pl": (*_CAMELS, ("Prolog", _PROLOG)),
    "plt": (("Prolog", _PROLOG),),
    "pm": (("X PixMap", rb"\A/\* XPM"), *_CAMELS),
    "pp": (
        (
            "Pascal",
            rb"(?i)^[ \t]*(?:\{\$|(?:unit|program|procedure)[ \t]+\w+[^\n{]*;|uses[ \t]+\w)",
        ),
        ("Puppet", rb""),
    ),
    "pro": (
        ("QMake", rb"^[ \t]*(?:QT|TEMPLATE|SOURCES|HEADERS|TARGET|CONFIG|SUBDIRS)[ \t]*[+*-]?="),
        ("IDL", rb"(?i)^[ \t]*(?:pro|function)[ \t]+\w+[ \t]*(?:,|$)"),
        ("Prolog", _PROLOG),
    ),
    "r": (("Rebol", rb"(?i)\A(?:#![^\n]*\n|\s)*rebol\b[ \t\r\n]*\["), ("R", rb"")),
    "re": (("C++", rb"^[ \t]*(?:#[ \t]*(?:include|define)\b|/\*!re2c)"), ("Reason", rb"")),
    "rs": (
        ("XML", rb"\A\s*<\?xml"),
        ("RenderScript", rb"^#pragma[ \t]+(?:rs|version)\b"),
        ("Rust", rb""),
    ),
    "sc": (
        ("SuperCollider", rb"\bSynthDef\b|^[A-Z]\w*[ \t]*:[ \t]*[A-Z]\w*[ \t]*\{"),
        ("Scala", rb""),
    ),
    "st": (
        ("StringTemplate", rb"^\w+\([^)\n]*\)[ \t]*::="),
        ("Structured Text", rb"\bEND_(?:VAR|FUNCTION_BLOCK|PROGRAM)\b"),
        ("Smalltalk", rb""),
    ),
    "t": (*_CAMELS, ("Terra", rb"^[ \t]*(?:terra|local)[ \t]+\w")),
    "ts": (("XML", rb"\A(?:\xef\xbb\xbf)?\s*<(?:\?xml|!DOCTYPE TS|TS\b)"), ("TypeScript", rb"")),
    "tsx": (("XML", rb"\A(?:\xef\xbb\xbf)?\s*<(?:\?xml|tileset\b)"), ("TypeScript", rb"")),
    "v": (
        (
            "Coq",
            rb"^[ \t]*(?:(?:Require|From|Theorem|Lemma|Definition|Inductive|CoInductive|Fixpoint|Corollary"
            rb"|Proposition|Axiom|Parameter|Hypothesis|Section|Ltac|Notation|Record|Instance)[ \t]+[\w\"]"
            rb"|Proof\b|Qed\.)",
        ),
        (
            "V",
            rb"^[ \t]*(?:pub[ \t]+)?fn[ \t]+(?:\([^)\n]*\)[ \t]*)?\w+[ \t]*[(\[]"
            rb"|^import[ \t]+[a-z][\w.]*[ \t]*(?:as\b|\{|\r?$)",
        ),
        ("Verilog", rb""),
    ),
    "yy": (("JSON", rb"\A\s*\{"), ("Yacc", rb"")),
    **{str(n): _MAN for n in range(1, 10)},
}
"""Extension -> (language, bytes that tell it), the first that is found; an empty one is always. Where
none is found, the name decides."""
