"""Personal data and secrets out of the text: e-mail addresses, public IPs, keys and passwords.

An edits layer: byte ranges, their placeholders (BigCode's) and rules, applied whenever the text is
read; what was there is neither logged nor stored. Licence headers can go the same way (OpenCoder).
Names of people need a model and are not touched. Knows nothing of how a secret is found.
"""

from functools import partial

import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job

VERSION = 2


@config
class Config:
    emails: bool = True
    """E-mail addresses -> `<EMAIL>` (BigCode); example.com, other reserved domains and the likes of
    `git@github.com` stay (ours)."""
    ips: bool = True
    """Public IPv4 and IPv6 addresses -> `<IP_ADDRESS>`; private and documentation addresses, popular
    name servers (BigCode) and what reads as a version number (ours) stay."""
    keys: bool = True
    """Keys and tokens -> `<KEY>`, passwords -> `<PASSWORD>` (BigCode's words): known formats as their
    issuers document them, and random values assigned to a name such as `api_key` (gitleaks)."""
    licence_headers: bool = False
    """The leading comment of a file goes where it is about copyright or licence (OpenCoder 2.1 does
    so, some 15 % of files have one; off here, for SnowCoder does not say: ours)."""


def run(files: Files, cfg: Config, job: Job) -> None:
    columns = ["text", "path", "language"]
    job.layer(files, partial(redact, cfg=cfg), columns, kind="edits")


def redact(table: pa.Table, cfg: Config) -> pa.Table:
    """Every row of (uid, text, path, language) kept, with its `edits`; the value is how many there
    are, the evidence their rules with counts."""
    from pipeline.kernels import secrets

    kinds = secrets.Kinds(cfg.emails, cfg.ips, cfg.keys, cfg.licence_headers)
    edits = secrets.edits(table["text"], kinds, table["path"], table["language"])
    lengths = edits.value_lengths().to_numpy().astype(float)
    nothing: list[str | None] = [None] * len(edits)
    return verdicts(table["uid"], nothing, lengths, secrets.counts(edits), edits=edits)
