"""The columns and words that every floor shares: documents, verdicts, special tokens.

Knows nothing of files on disk; `store` reads and writes these tables.
"""

from hashlib import blake2b

import pyarrow as pa

DOCUMENTS = pa.schema(
    [
        ("uid", pa.string()),
        ("source", pa.string()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("stars", pa.int32()),
        ("bytes", pa.int64()),
        ("content", pa.string()),
        ("text", pa.large_string()),
    ]
)
"""One row a file. `uid` is the document's name for life, `content` the hash of its text alone;
`licence` is an SPDX expression or null; `stars` null where the source has none."""

VERDICT = pa.schema(
    [
        ("uid", pa.string()),
        ("keep", pa.bool_()),
        ("rule", pa.dictionary(pa.int32(), pa.string())),
        ("value", pa.float64()),
        ("evidence", pa.string()),
    ]
)
"""A verdict layer. `keep` is null where an earlier verdict already dropped the row; a dropped row
has its `rule`, the measured `value` and, where there is any, `evidence` (the kept twin's uid, the
task it overlaps, the error that quarantined it)."""

LEDGER = pa.schema(
    [("repo", pa.string()), ("path", pa.string()), ("rule", pa.string()), ("evidence", pa.string())]
)
"""What a step that makes documents did not take: one row each, beside the shard."""

QUARANTINE = "quarantine"
"""The rule of a row that a box could not process; its evidence is the error."""

EDITS = pa.list_(
    pa.struct(
        [
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("text", pa.string()),
            ("rule", pa.string()),
        ]
    )
)
"""Edits of one document: UTF-8 byte offsets into the ingested text, ascending, not overlapping; what
is put there instead, and the rule that asked for it."""

SPECIALS = (
    "<|endoftext|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""Special tokens, in id order 0..6 in every tokenizer trained here (spelling: Qwen2.5-Coder)."""
END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD, REPO_NAME, FILE_SEP = range(len(SPECIALS))
SEP, EOM, MASK = range(len(SPECIALS), len(SPECIALS) + 3)
"""The ids behind SPECIALS in a tokenizer with masks: <sep>, <eom>, and <mask_1> of those that follow."""


def specials(masks: int = 0) -> tuple[str, ...]:
    """The special tokens of a tokenizer in id order; `masks`: also those of span corruption (spelling:
    CodeGen2 2305.02309)."""
    spans = ("<sep>", "<eom>", *(f"<mask_{i + 1}>" for i in range(masks)))
    return SPECIALS + spans if masks else SPECIALS


def digest(*parts: str | bytes) -> str:
    """128-bit BLAKE2b of the parts as 32 hex digits; each part is length-prefixed."""
    h = blake2b(digest_size=16)
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode()
        h.update(len(raw).to_bytes(8, "little"))
        h.update(raw)
    return h.hexdigest()


def uid(source: str, repo: str, path: str, content: str) -> str:
    """The document's identity: 128 bits over (source, repository, path, content hash)."""
    return digest(source, repo, path, content)


def is_log(name: str) -> bool:
    """Files with times in them: hashed in the manifest, but no part of the content's digest."""
    return name.endswith((".jsonl", ".html")) or name.startswith(("checkpoints/", "logs/"))
