"""The forms of secrets, as their issuers document them: one row a kind.

A row is a name, the words that every secret of the kind contains or stands behind (`keywords` finds
them), and the form that must match from the hit on; its last group is the secret. Facts as
in gitleaks' and detect-secrets' rule lists and the issuers' manuals; the forms are written anew.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pipeline.kernels.keywords import Word

Check = Literal["token", "password", "random", "bare"]


@dataclass(frozen=True)
class Rule:
    """One kind of secret."""

    name: str
    words: tuple[Word, ...]
    form: re.Pattern[bytes]
    """Matched at the hit."""
    check: Check = "token"
    """What else must hold. token: no stand-in. password: neither stand-in nor plain word. random: a
    random string. bare: random, and the line is nothing but `name = value`."""
    placeholder: str = "<KEY>"
    shape: str = ""
    """One of `keywords.SHAPES` that it is found by, besides its words."""


_LEFT = rb"(?:(?<![A-Za-z0-9_])|(?<=\\[nrt])|(?<=%[0-9A-F]{2}))"
_RIGHT = rb"(?![A-Za-z0-9])"
_NAME = rb"[\w. -]{0,40}?"
_SIGN = rb"""["'`\])\\]{0,3}[ \t]{0,8}(?::[ \t]*[&'\w<>]{1,24}[ \t]*=|[=:,>(!?|]{1,3}|(?=["'`]))"""
_ASSIGNED = _NAME + _SIGN + rb"""[ \t]{0,8}(?:[bruf]{0,2}["'`]|\\["'])?"""
_QUOTED = _NAME + _SIGN + rb"""[ \t]{0,8}[brf]{0,2}\\?(["'`])"""
_UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_PASSWORDS = (
    "password passwd passwort passphrase passcode _pwd pwd_ db_pass dbpass database_pass user_pass "
    "admin_pass root_pass smtp_pass key_pass mysql_pwd userpwd"
)
_SECRETS = (
    "secret token api_key apikey api-key app_key appkey access_key accesskey access-key auth_key "
    "authkey account_key accountkey service_key private_key privatekey client_key encryption_key "
    "encryptionkey signing_key signingkey master_key masterkey credential bearer "
    "db_key database_key api_pass webhook_key storage_key"
)


_TOKENS = r"""
aws_access_key (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16} AKIA ASIA ABIA ACCA
gcp_api_key AIza[\w-]{35} AIza
gcp_oauth_secret GOCSPX-[\w-]{28} GOCSPX-
gcp_access_token ya29\.[\w-]{30,300} ya29.
github_fine_grained github_pat_[A-Za-z0-9_]{60,300} github_pat_
github_pat ghp_[A-Za-z0-9]{36,300} ghp_
github_oauth gho_[A-Za-z0-9]{36,300} gho_
github_app gh[us]_[A-Za-z0-9]{36,300} ghu_ ghs_
github_refresh ghr_[A-Za-z0-9]{36,300} ghr_
gitlab_pat glpat-[\w-]{20,300}(?:\.[0-9a-z]{2}\.?[0-9a-z]{7,9})? glpat-
gitlab_runner (?:GR1348941|glrt-(?:t\d_)?)[\w-]{20,300} GR1348941 glrt-
gitlab_pipeline glptt-[0-9a-f]{40} glptt-
gitlab_deploy gl(?:dt|ft|cbt)-[\w-]{20,300} gldt- glft- glcbt-
gitlab_other gl(?:agent|imt|soat|oas|ffct)-[\w-]{20,300} glagent- glimt- glsoat- gloas- glffct-
slack_token xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,300} xox 15
slack_app_token xapp-\d-[A-Za-z0-9-]{20,300} xapp-
slack_webhook hooks\.slack\.com/(?:services|workflows|triggers)/[\w+/]{40,60} hooks.slack.com/
discord_webhook discord(?:app)?\.com/api/webhooks/\d{17,20}/[\w-]{60,80} discord.com/api discordapp.com/api
stripe [rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,99} rk_live_ rk_test_ rk_prod_ sk_live_ sk_test_ sk_prod_
stripe_webhook whsec_[A-Za-z0-9+/]{32,64}=? whsec_
square (?:sq0atp-[\w-]{22}|sq0csp-[\w-]{43}) sq0atp- sq0csp-
square_access EAAA[\w+=-]{60} EAAA 64
braintree access_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32} access_token$
twilio_key SK[0-9a-f]{32} SK# 34
twilio_sid AC[0-9a-f]{32} AC# 34
sendgrid SG\.[\w-]{16,32}\.[\w-]{16,64} SG. 40
sendinblue xkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16} xkeysib-
mailgun (?:pub)?key-[0-9a-f]{32} key-# 36
npm npm_[A-Za-z0-9]{36} npm_ 40
pypi pypi-AgE[\w-]{50,300} pypi-AgE
rubygems rubygems_[0-9a-f]{48} rubygems_
crates_io cio[A-Za-z0-9]{32} cio 35
clojars CLOJARS_[0-9a-z]{60} CLOJARS_
docker_hub dckr_[op]at_[\w-]{27,36} dckr_pat_ dckr_oat_
heroku HRKU-AA[\w-]{58} HRKU-AA
digitalocean do[opr]_v1_[0-9a-f]{64} doo_v1_ dop_v1_ dor_v1_
cloudflare_origin v1\.0-[0-9a-f]{24}-[0-9a-f]{146} v1.0- 60
new_relic NR(?:AK-[A-Z0-9]{27}|JS-[0-9a-f]{19}|II-[\w-]{32}|IQ-[\w-]{32}) NRAK- NRJS- NRII- NRIQ-
shopify shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32} shpat_ shpca_ shppa_ shpss_
atlassian AT(?:ATT3|CTT3|BB)[\w=-]{24,240} ATATT3 ATCTT3 ATBB
linear lin_(?:api|oauth)_[A-Za-z0-9]{40,300} lin_api_ lin_oauth_
notion (?:secret_[A-Za-z0-9]{43}|ntn_[0-9]{11}[A-Za-z0-9]{35}) secret_ ntn_ 50
hugging_face (?:hf_[A-Za-z0-9]{30,300}|api_org_[A-Za-z]{34}) hf_ api_org_ 33
openai sk-(?:(?:proj|svcacct|admin|service)-[\w-]{32,300}|[A-Za-z0-9]{32,300}) sk- 35
anthropic sk-ant-[a-z0-9]{3,8}-[\w-]{24,300} sk-ant-
openrouter sk-or-v1-[0-9a-f]{64} sk-or-v1-
groq gsk_[A-Za-z0-9]{52} gsk_
perplexity pplx-[A-Za-z0-9]{48} pplx-
replicate r8_[A-Za-z0-9]{37} r8_ 40
databricks dapi[0-9a-f]{32}(?:-\d)? dapi 36
vault hv[bsr]\.[\w-]{24,220} hvs. hvb. hvr.
doppler dp\.[a-z]{2,5}\.(?:[\w-]{2,35}\.)?[A-Za-z0-9]{40,44} dp.pt. dp.st. dp.ct. dp.scim. dp.audit.
postman PMAK-[0-9a-f]{24}-[0-9a-f]{34} PMAK-
grafana gl(?:sa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}|c_[A-Za-z0-9+/]{32,400}={0,2}) glsa_ glc_ 36
sentry (?:sntrys_eyJ[\w+/=-]{40,400}|sntryu_[0-9a-f]{64}) sntrys_eyJ sntryu_
artifactory (?:AKCp[A-Za-z0-9]{69}|cmVmdGtu[A-Za-z0-9]{56}) AKCp cmVmdGtu 60
planetscale pscale_(?:tkn|pw|oauth)_[\w.=-]{32,64} pscale_
prefect pn[ub]_[A-Za-z0-9]{36} pnu_ pnb_ 40
pulumi pul-[0-9a-f]{40} pul- 44
supabase sb(?:p|_secret)_[A-Za-z0-9_-]{31,64} sbp_ sb_secret_ 35
dynatrace dt0[a-zA-Z]\d\d\.[A-Z0-9]{24}\.[A-Z0-9]{64} dt0c01. dt0s01.
alibaba LTAI[A-Za-z0-9]{16,20} LTAI
easypost EZ[AT]K[A-Za-z0-9]{54} EZAK EZTK 58
figma fig[du]_[\w-]{40,300} figd_ figu_
airtable pat[A-Za-z0-9]{14}\.[0-9a-f]{64} pat 82
age AGE-SECRET-KEY-1[0-9A-Z]{58} AGE-SECRET-KEY-1
fly_io fo1_[\w-]{43} fo1_ 46
readme rdme_[0-9a-z]{70} rdme_
shippo shippo_(?:live|test)_[0-9a-f]{40} shippo_
jwt eyJ[\w-]{10,4000}\.eyJ[\w-]{10,4000}\.[\w-]{10,4000} eyJ 36
"""
"""Name, form, the words it may start with (# is any hexadecimal digit), and how many bytes of a token must
follow from there on where the usual 20 would let too much through. All lengths are bounded, so that
no text takes long."""


@cache
def rules() -> tuple[Rule, ...]:
    """All kinds; of two that match at one place the earlier wins."""
    return (*_tokens(), *_surrounded(), *_near(), *_blocks(), *_passwords(), *_generic())


def _token(name: str, form: str, *words: str) -> Rule:
    """A secret that its own first letters give away."""
    size = int(words[-1]) if words[-1].isdigit() else 20
    hexed = [
        w.replace("#", digit) for w in words for digit in ("0123456789abcdef" if "#" in w else "0")
    ]
    found = tuple(Word(w.encode(), "run", size) for w in hexed if not w.isdigit())
    return Rule(name, found, re.compile(_LEFT + b"(" + form.encode() + b")" + _RIGHT))


def _around(name: str, form: str, *words: str, size: int = 20) -> Rule:
    """A secret with a mark in its middle or at its end."""
    found = tuple(Word(w.encode(), "before", size) for w in words)
    return Rule(
        name, found, re.compile(b"[\\w-]{0,160}?" + _LEFT + b"(" + form.encode() + b")" + _RIGHT)
    )


def _after(name: str, form: bytes, *words: str, check: Check = "random") -> Rule:
    """A secret without a mark of its own, assigned to a name with its issuer's."""
    found = tuple(Word(w.encode(), "assigned") for w in words)
    return Rule(name, found, re.compile(_ASSIGNED + b"(" + form + rb")(?![\w/+=-])", re.I), check)


def _tokens() -> tuple[Rule, ...]:
    """The rows of `_TOKENS`: prefixed tokens, by issuer."""
    return tuple(_token(*line.split()) for line in _TOKENS.strip().splitlines())


def _surrounded() -> tuple[Rule, ...]:
    """Tokens whose mark is inside them."""
    bot = rb"([MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,40})" + _RIGHT
    return (
        Rule("discord_bot", (), re.compile(_LEFT + bot), shape="dotted"),
        _around(
            "azure_client_secret",
            r"[\w~.-]{3}\dQ~[\w~.-]{31,34}",
            *(f"{d}Q~" for d in range(10)),
            size=34,
        ),
        _around("telegram_bot", r"\d{8,10}:AA[\w-]{32,33}", ":AA", size=35),
        _around("mailchimp", r"[0-9a-f]{32}-us\d{1,2}", *(f"-us{d}" for d in "123456789"), size=4),
        _around("openai", r"sk-(?:[a-z]+-)?[\w-]{20,80}T3BlbkFJ[\w-]{20,80}", "T3BlbkFJ", size=28),
        _around("new_relic", "[0-9a-f]{36}NRAL", "NRAL", size=4),
        _around(
            "terraform_cloud", r"[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,70}", ".atlasv1.", size=60
        ),
    )


def _near() -> tuple[Rule, ...]:
    """Values without a mark of their own."""
    return (
        _after(
            "aws_secret_key",
            b"[A-Za-z0-9/+]{40}",
            "aws_secret",
            "secret_access_key",
            "secretaccesskey",
            "aws_key",
            "secret_key",
            "secretkey",
        ),
        _after(
            "azure_storage_key",
            b"[A-Za-z0-9+/]{86}==",
            "accountkey",
            "account_key",
            "storage_key",
            "storagekey",
            "azure_storage",
            "sharedaccesskey",
        ),
        _after("gcp_service_account", b"[0-9a-f]{40}", "private_key_id"),
        _after("twilio_auth_token", b"[0-9a-f]{32}", "twilio"),
        _after("mailgun", b"[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}", "mailgun"),
        _after("heroku", _UUID, "heroku", check="token"),
        _after("cloudflare", rb"(?:[\w-]{40}|[0-9a-f]{37})", "cloudflare", "cf_api"),
        _after("datadog", b"(?:[0-9a-f]{40}|[0-9a-f]{32})", "datadog", "dd_api_key", "dd_app_key"),
        _after("atlassian", b"[A-Za-z0-9]{24}", "jira", "atlassian", "confluence", "bitbucket"),
        _after("npm", _UUID, "_authtoken", check="token"),
        _after("discord_secret", rb"(?:[\w=-]{32}|[0-9a-f]{64})", "discord"),
        _after("vault", rb"s\.[A-Za-z0-9]{24}", "vault_token"),
    )


def _blocks() -> tuple[Rule, ...]:
    """Private keys as text blocks: PEM, OpenSSH and PGP; PuTTY."""
    gap = rb"(?:[\s\"'+,;`]|\\[nr]){0,60}"
    header = (
        rb"(?:(?:Proc-Type|DEK-Info|Version|Comment|Charset)[^\n]{0,100}?(?:\\n|\n)"
        + gap
        + rb"){0,4}"
    )
    pem = (
        rb"-----BEGIN ([A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?)-----"
        + gap
        + header
        + rb"(?:[A-Za-z0-9+/]\s{0,4}){16}[^<>{}()-]{0,20000}+-----END \2-----"
    )
    return (
        Rule("private_key", (Word(b"-----BEGIN", "run", 0),), re.compile(b"(" + pem + b")")),
        Rule(
            "putty_key",
            (Word(b"Private-Lines:", "run", 0),),
            re.compile(
                rb"Private-Lines: ?\d+\s{1,4}([A-Za-z0-9+/=\s]{64,20000}?)(?=\s?Private-(?:MAC|Hash))"
            ),
        ),
    )


def _passwords() -> tuple[Rule, ...]:
    """Passwords that stand in URLs and connection strings."""
    return (
        Rule(
            "connection_string",
            tuple(Word(w, "any") for w in (b";password", b"; password", b";pwd", b"; pwd")),
            re.compile(rb"; ?(?i:password|pwd)\s?=\s?([^;\"'\s<>{}$%]{6,128})(?:;|(?=[\"']))"),
            "password",
            "<PASSWORD>",
        ),
        Rule(
            "basic_auth",
            (),
            re.compile(rb"[^\s\"'`<>:/@]{0,100}:([^\s\"'`<>/{}$@]{4,128})@(?=[\w\[])"),
            "password",
            "<PASSWORD>",
            "url",
        ),
    )


def _generic() -> tuple[Rule, ...]:
    """Anything random that is assigned to a name that says so."""
    made = []
    for name, words, placeholder in (
        ("password", _PASSWORDS, "<PASSWORD>"),
        ("generic_secret", _SECRETS, "<KEY>"),
    ):
        found = tuple(Word(w.encode(), "assigned") for w in words.split())
        quoted = re.compile(_QUOTED + rb"([^\s\"'`<>\\]{8,200})\\?\1")
        bare = re.compile(
            rb"[\w. -]{0,40}?(?:[=:]|>)[ \t]*([\w+/=.~!@#$%^&*?-]{8,200})(?=\s|$|<|;)"
        )
        made.append(Rule(name, found, quoted, "random", placeholder))
        made.append(Rule(name, found, bare, "bare", placeholder))
    return tuple(made)
