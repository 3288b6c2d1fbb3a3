"""Random secrets of each kind after their issuers' manuals, planted in code of several languages.

Written apart from the forms that find them: alphabets and lengths are stated here once more.
"""

import base64
import json
from collections.abc import Callable, Iterator
from random import Random

LOWER = "abcdefghijklmnopqrstuvwxyz"
UPPER = LOWER.upper()
DIGITS = "0123456789"
HEX = DIGITS + "abcdef"
ALNUM = DIGITS + LOWER + UPPER
URLSAFE = ALNUM + "-_"
BASE64 = ALNUM + "+/"


def draw(rng: Random, alphabet: str, length: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(length))


def encoded(rng: Random, data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwt(rng: Random) -> str:
    parts = {"alg": "HS256", "typ": "JWT"}, {"sub": draw(rng, DIGITS, 10), "iat": 1700000000}
    head = ".".join(encoded(rng, json.dumps(p).encode()) for p in parts)
    return f"{head}.{encoded(rng, rng.randbytes(32))}"


def discord(rng: Random) -> str:
    account = str(rng.randrange(10**17, 10**18)).encode()
    return f"{encoded(rng, account)}.{draw(rng, URLSAFE, 6)}.{draw(rng, URLSAFE, 38)}"


def uuid(rng: Random) -> str:
    return "-".join(draw(rng, HEX, n) for n in (8, 4, 4, 4, 12))


MARKED: dict[str, Callable[[Random], str]] = {
    "aws_access_key": lambda r: r.choice(["AKIA", "ASIA"]) + draw(r, UPPER + "234567", 16),
    "gcp_api_key": lambda r: "AIza" + draw(r, URLSAFE, 34) + draw(r, ALNUM, 1),
    "gcp_oauth_secret": lambda r: "GOCSPX-" + draw(r, URLSAFE, 27) + draw(r, ALNUM, 1),
    "azure_client_secret": lambda r: draw(r, ALNUM, 3) + "8Q~" + draw(r, ALNUM + "-_.~", 33) + "a",
    "github_pat": lambda r: "ghp_" + draw(r, ALNUM, 36),
    "github_oauth": lambda r: "gho_" + draw(r, ALNUM, 36),
    "github_app": lambda r: r.choice(["ghs_", "ghu_"]) + draw(r, ALNUM, 36),
    "github_refresh": lambda r: "ghr_" + draw(r, ALNUM, 76),
    "github_fine_grained": lambda r: f"github_pat_{draw(r, ALNUM, 22)}_{draw(r, ALNUM, 59)}",
    "gitlab_pat": lambda r: "glpat-" + draw(r, URLSAFE, 20),
    "gitlab_pipeline": lambda r: "glptt-" + draw(r, HEX, 40),
    "gitlab_runner": lambda r: r.choice(["GR1348941", "glrt-"]) + draw(r, URLSAFE, 20),
    "gitlab_deploy": lambda r: "gldt-" + draw(r, URLSAFE, 20),
    "slack_token": lambda r: (
        f"{r.choice(['xoxb', 'xoxp'])}-{draw(r, DIGITS, 12)}-{draw(r, DIGITS, 12)}-{draw(r, ALNUM, 24)}"
    ),
    "slack_app_token": lambda r: (
        f"xapp-1-A{draw(r, UPPER + DIGITS, 10)}-{draw(r, DIGITS, 13)}-{draw(r, HEX, 64)}"
    ),
    "slack_webhook": lambda r: (
        "hooks.slack.com/services/"
        f"T{draw(r, UPPER + DIGITS, 8)}/B{draw(r, UPPER + DIGITS, 8)}/{draw(r, ALNUM, 24)}"
    ),
    "discord_bot": discord,
    "discord_webhook": lambda r: (
        f"discord.com/api/webhooks/{r.randrange(10**17, 10**18)}/{draw(r, URLSAFE, 67)}Z"
    ),
    "telegram_bot": lambda r: f"{r.randrange(10**8, 10**10)}:AA{draw(r, URLSAFE, 32)}x",
    "stripe": lambda r: r.choice(["sk_live_", "rk_live_", "sk_test_"]) + draw(r, ALNUM, 24),
    "stripe_webhook": lambda r: "whsec_" + draw(r, ALNUM, 32),
    "square": lambda r: "sq0csp-" + draw(r, URLSAFE, 42) + "a",
    "braintree": lambda r: (
        f"access_token$production${draw(r, DIGITS + LOWER, 16)}${draw(r, HEX, 32)}"
    ),
    "twilio_sid": lambda r: "AC" + draw(r, HEX, 32),
    "twilio_key": lambda r: "SK" + draw(r, HEX, 32),
    "sendgrid": lambda r: f"SG.{draw(r, URLSAFE, 22)}.{draw(r, URLSAFE, 42)}b",
    "mailgun": lambda r: "key-" + draw(r, HEX, 32),
    "mailchimp": lambda r: f"{draw(r, HEX, 32)}-us{r.randrange(1, 21)}",
    "npm": lambda r: "npm_" + draw(r, ALNUM, 36),
    "pypi": lambda r: "pypi-AgEIcHlwaS5vcmc" + draw(r, URLSAFE, 150),
    "rubygems": lambda r: "rubygems_" + draw(r, HEX, 48),
    "crates_io": lambda r: "cio" + draw(r, ALNUM, 32),
    "docker_hub": lambda r: "dckr_pat_" + draw(r, URLSAFE, 26) + "c",
    "digitalocean": lambda r: "dop_v1_" + draw(r, HEX, 64),
    "new_relic": lambda r: "NRAK-" + draw(r, UPPER + DIGITS, 27),
    "shopify": lambda r: r.choice(["shpat_", "shpss_", "shpca_"]) + draw(r, HEX, 32),
    "atlassian": lambda r: "ATATT3" + draw(r, URLSAFE, 186),
    "linear": lambda r: "lin_api_" + draw(r, ALNUM, 40),
    "notion": lambda r: r.choice(
        ["secret_" + draw(r, ALNUM, 43), f"ntn_{draw(r, DIGITS, 11)}{draw(r, ALNUM, 35)}"]
    ),
    "hugging_face": lambda r: "hf_" + draw(r, LOWER + UPPER, 34),
    "openai": lambda r: r.choice(
        [
            f"sk-{draw(r, ALNUM, 20)}T3BlbkFJ{draw(r, ALNUM, 20)}",
            f"sk-proj-{draw(r, URLSAFE, 74)}T3BlbkFJ{draw(r, URLSAFE, 73)}A",
        ]
    ),
    "anthropic": lambda r: f"sk-ant-api03-{draw(r, URLSAFE, 93)}AA",
    "databricks": lambda r: "dapi" + draw(r, HEX, 32),
    "vault": lambda r: "hvs." + draw(r, URLSAFE, 95),
    "terraform_cloud": lambda r: f"{draw(r, ALNUM, 14)}.atlasv1.{draw(r, ALNUM, 67)}",
    "doppler": lambda r: "dp.pt." + draw(r, ALNUM, 43),
    "postman": lambda r: f"PMAK-{draw(r, HEX, 24)}-{draw(r, HEX, 34)}",
    "grafana": lambda r: f"glsa_{draw(r, ALNUM, 32)}_{draw(r, HEX, 8)}",
    "sentry": lambda r: "sntryu_" + draw(r, HEX, 64),
    "artifactory": lambda r: "AKCp" + draw(r, ALNUM, 69),
    "jwt": jwt,
}
"""Secrets with a mark of their own: found whatever the name that they are given."""

NAMED: dict[str, tuple[str, Callable[[Random], str]]] = {
    "aws_secret_key": ("aws_secret_access_key", lambda r: draw(r, BASE64, 40)),
    "azure_storage_key": ("azure_storage_account_key", lambda r: draw(r, BASE64, 86) + "=="),
    "gcp_service_account": ("private_key_id", lambda r: draw(r, HEX, 40)),
    "twilio_auth_token": ("twilio_auth_token", lambda r: draw(r, HEX, 32)),
    "heroku": ("heroku_api_key", uuid),
    "cloudflare": ("cloudflare_api_token", lambda r: draw(r, URLSAFE, 40)),
    "datadog": ("datadog_api_key", lambda r: draw(r, HEX, 32)),
    "atlassian": ("jira_api_token", lambda r: draw(r, ALNUM, 24)),
    "paypal": ("paypal_client_secret", lambda r: draw(r, URLSAFE, 80)),
    "password": ("db_password", lambda r: draw(r, ALNUM + "!#*", 16)),
    "api_key": ("api_key", lambda r: draw(r, ALNUM, 32)),
    "token": ("session_token", lambda r: draw(r, HEX, 40)),
    "secret": ("client_secret", lambda r: draw(r, LOWER + DIGITS, 24)),
}
"""Secrets that their name alone tells, with such a name."""


def pem(rng: Random, label: str, gap: str = "\n") -> str:
    lines = [draw(rng, BASE64, 64) for _ in range(8)] + [draw(rng, BASE64, 30) + "=="]
    return f"-----BEGIN {label}-----{gap}" + "\n".join([*lines, f"-----END {label}-----"])


def strong(rng: Random) -> str:
    return draw(rng, ALNUM + "!*-_", 14)


BLOCKS: dict[str, tuple[str, Callable[[Random], str]]] = {
    "pem": ("%s\n", lambda r: pem(r, "RSA PRIVATE KEY")),
    "ssh": ("cat > id <<EOF\n%s\nEOF\n", lambda r: pem(r, "OPENSSH PRIVATE KEY")),
    "pgp": ('KEY = """\n%s\n"""\n', lambda r: pem(r, "PGP PRIVATE KEY BLOCK", "\n\n")),
    "service_account": (
        '{"type": "service_account", "private_key": "%s\\n"}',
        lambda r: json.dumps(pem(r, "PRIVATE KEY"))[1:-1],
    ),
    "putty": (
        "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 2\n%s\nPrivate-MAC: 0\n",
        lambda r: f"{draw(r, BASE64, 64)}\n{draw(r, BASE64, 44)}",
    ),
    "url": ('engine = create_engine("postgresql://app:%s@db.acme.io:5432/app")\n', strong),
    "connection_string": (
        '"Db": "Server=tcp:acme.database.net;User ID=app;Password=%s;Encrypt=True"\n',
        strong,
    ),
    "azure_connection": (
        "CONN=DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=%s;EndpointSuffix=a.net\n",
        lambda r: draw(r, BASE64, 86) + "==",
    ),
    "npmrc": ("//registry.npmjs.org/:_authToken=%s\n", uuid),
}
"""Secrets that bring their own surroundings, and those."""

SURROUNDINGS = (
    (
        ".py",
        'import acme\n\n\ndef connect():\n    {name} = "{secret}"\n    return acme.Client({name})\n',
    ),
    (".py", "client = acme.Client(host='acme.io', {name}='{secret}', timeout=30)\n"),
    (".env", "# deployment\nDEBUG=false\n{upper}={secret}\nPORT=8080\n"),
    (".yaml", "services:\n  web:\n    environment:\n      {name}: {secret}\n      port: 80\n"),
    (".json", '{{\n  "debug": false,\n  "{name}": "{secret}"\n}}\n'),
    (".js", "const config = {{\n  {camel}: '{secret}',\n  retries: 3,\n}};\n"),
    (".ts", 'const {camel}: string = "{secret}";\n'),
    (".sh", '#!/bin/sh\nexport {upper}="{secret}"\n./deploy --verbose\n'),
    (".java", '    private static final String {upper} = "{secret}";\n'),
    (".go", '\tcfg.{camel} := "{secret}"\n'),
)
"""(suffix, text) of several languages."""


def planted(name: str, secret: str) -> Iterator[tuple[str, str]]:
    """(suffix, text): the secret under that name in code of each language."""
    first, *rest = name.split("_")
    camel = first + "".join(word.title() for word in rest)
    for suffix, text in SURROUNDINGS:
        yield suffix, text.format(name=name, upper=name.upper(), camel=camel, secret=secret)


KINDS = (*MARKED, *(f"named_{kind}" for kind in NAMED), *BLOCKS)


def cases(kind: str, rng: Random, each: int) -> list[tuple[str, str, str]]:
    """(suffix, text, secret) of one kind: `each` secrets in every surrounding."""
    if kind in BLOCKS:
        template, make = BLOCKS[kind]
        secrets = [make(rng) for _ in range(each * len(SURROUNDINGS))]
        return [(".txt", template % secret, secret) for secret in secrets]
    name, make = NAMED[kind[6:]] if kind.startswith("named_") else ("client", MARKED[kind])
    secrets = [make(rng) for _ in range(each)]
    return [(*text, secret) for secret in secrets for text in planted(name, secret)]
