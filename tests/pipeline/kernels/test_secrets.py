"""Which secrets are found, which look-alikes stay, and that edits are sound on any text."""

from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.files import apply_edits, edited
from pipeline.core.schema import EDITS
from pipeline.kernels.gibberish import entropy, random
from pipeline.kernels.secret_rules import rules
from pipeline.kernels.secrets import Kinds, counts, edits
from tests.pipeline.kernels.planted import BLOCKS, KINDS, MARKED, cases

EACH = 20


def found(*texts: str, kinds: Kinds | None = None, **columns: list[str]) -> pa.ListArray:
    more = {name: pa.array(values) for name, values in columns.items()}
    return edits(pa.array(texts, pa.large_string()), kinds or Kinds(), **more)


def redacted(text: str, **columns: list[str]) -> str:
    return apply_edits(text, found(text, **columns)[0].as_py())


@pytest.mark.parametrize("kind", KINDS)
def test_recall_of_each_kind(kind: str) -> None:
    planted = cases(kind, Random(kind), EACH)
    column = pa.chunked_array([pa.array([text for _, text, _ in planted], pa.large_string())])
    after = edited(column, edits(column, Kinds())).to_pylist()
    lines = [[line for line in secret.split("\n") if line] for _, _, secret in planted]
    kept = [any(line in text for line in left) for text, left in zip(after, lines, strict=True)]
    assert sum(kept) <= 0.02 * len(planted), f"{sum(kept)} of {len(planted)}"


@pytest.mark.parametrize("kind", MARKED)
def test_a_marked_kind_is_named(kind: str) -> None:
    planted = [text for _, text, _ in cases(kind, Random(kind), 3)]
    assert set(found(*planted).values.field("rule").to_pylist()) == {kind}


def test_there_are_many_kinds() -> None:
    names = {rule.name for rule in rules()}
    assert len(names) >= 80
    assert set(MARKED) <= names
    assert len(KINDS) >= 70


def test_what_surrounds_a_secret_stays() -> None:
    for kind in BLOCKS:
        _, text, secret = cases(kind, Random(kind), 1)[0]
        mark = "<PASSWORD>" if kind in ("url", "connection_string") else "<KEY>"
        assert redacted(text) == text.replace(secret, mark)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("write to ada.l+x@mail.acme.co.uk now", "write to <EMAIL> now"),
        ("Ada Lovelace <ada@acme.org>, 1843", "Ada Lovelace <<EMAIL>>, 1843"),
        ("host = '93.184.216.34'", "host = '<IP_ADDRESS>'"),
        ("http://93.184.216.34:80/", "http://<IP_ADDRESS>:80/"),
        ("at 2a00:1450:4001:82a::200e.", "at <IP_ADDRESS>."),
        ("at [2a00:1450:4001:82a::200e]:80", "at [<IP_ADDRESS>]:80"),
        ("é ada@uni.edu é 93.184.216.34 é", "é <EMAIL> é <IP_ADDRESS> é"),
        ("?to=ada@acme.org&x", "?to=<EMAIL>&x"),
        ("https://acme.io/?to=ada@acme.org", "https://acme.io/?to=<EMAIL>"),
        ("https://ada:s3cr7Qx!@acme.io/x", "https://ada:<PASSWORD>@acme.io/x"),
        ('db_password = "v7#Kq2!zLw"', 'db_password = "<PASSWORD>"'),
        ("auth = ('password', 'v7Kq2xzLw9')", "auth = ('password', '<PASSWORD>')"),
        ('String clientSecret = "q8Zr2LmX0vTy"', 'String clientSecret = "<KEY>"'),
        ('\\"api_key\\": \\"q8Zr2LmX0vTy\\"', '\\"api_key\\": \\"<KEY>\\"'),
        ("<apiKey>q8Zr2LmX0vTy</apiKey>", "<apiKey><KEY></apiKey>"),
        ("token: q8Zr2LmX0vTy  # prod", "token: <KEY>  # prod"),
        ('#define API_KEY "q8Zr2LmX0vTy"', '#define API_KEY "<KEY>"'),
    ],
)
def test_secrets_become_placeholders(text: str, wanted: str) -> None:
    assert redacted(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "a@example.com b@mail.example.org c@localhost",
        "@decorator git@github.com:acme/x.git x@y icon@2x.png y = A@B.transpose",
        "10.0.0.1 127.0.0.1 192.168.1.1 8.8.8.8 76.76.19.19 255.255.255.0 224.0.0.1",
        "192.0.2.7 198.51.100.23 203.0.113.9 2001:db8::1 fe80::1 ::1 2001:4860:4860::8888",
        "version 93.184.216.34 and Version=93.184.216.34 and pkg==93.184.216.34",
        "1.2.3.4 1.2.3.4.5 999.1.1.1 1.2.3 Chrome/93.184.216.34 ObjectIdentifier('2.5.29.14')",
        "std::vector a::b 12:30:45 2024:11:05",
        'password = "changeme1"; token = "your-token-123"; secret = "xxxxxxxx1"',
        'password = os.environ["DB_PASSWORD_1"]',
        "password: ${DB_PASSWORD1}\nsecret: {{ vault.secret_1 }}\ntoken: <your token 1>",
        "api_key=YOUR_API_KEY_123\napi_key: example-key-1234",
        "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE",
        "t = 'ghp_" + "x" * 36 + "'",
        "t = 'ghp_" + "0123456789abcdefghijklmnopqrstuvwxyz" + "'",
        "postgres://user:password@localhost/db ftp://anonymous:anonymous@acme.io",
        "token_id = '1c26fb63-be0d-34a9-40f3-1113abfabd4d'",
        "Version=4.0.0.0, Culture=neutral, PublicKeyToken=b03f5f7f11d50a3a",
        '"integrity": "sha512-Kx7LkqT0b2Zy8Q1mVwP4rJ9sHd3fGtN6uEoYcAi5XlWzMvRjBhUeSgTqDnCpFkLa=="',
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        'tokenizer = AutoTokenizer.from_pretrained("EleutherAI/gpt-neox-20b")',
        "PrivateKeyInfo = rfc5958.PrivateKeyInfo\ntoken = self.tokens1.next",
        '["keywords", "tokens", "symbol2label"]',
        "- Bearer https://tools.acme.org/html/rfc6750\nsecret = r'([a-z0-9]{64})'",
        '"license_key": "agpl-3.0-plus", "secret": "/run/secrets/db1", "token_url": "https://a.io/1"',
        "-----BEGIN CERTIFICATE-----\n" + "MIIB" * 20 + "\n-----END CERTIFICATE-----",
        '"-----BEGIN PRIVATE KEY-----" in text and "-----END PRIVATE KEY-----" in text',
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_lockfiles_keep_their_hashes_but_no_known_token() -> None:
    text = 'token = "q8Zr2LmX0vTy"\nother = "ghp_' + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6" + '"\n'
    assert redacted(text, path=["a/poetry.lock"]) == 'token = "q8Zr2LmX0vTy"\nother = "<KEY>"\n'
    assert redacted(text, path=["a/poetry.py"]) == 'token = "<KEY>"\nother = "<KEY>"\n'


def test_each_kind_can_be_left_alone() -> None:
    text = "ada@acme.org 93.184.216.34 token='q8Zr2LmX0vTy'"
    for name, rule in (("emails", "email"), ("ips", "ipv4"), ("keys", "generic_secret")):
        left = found(text, kinds=Kinds(**{name: False})).values.field("rule").to_pylist()
        assert rule not in left
        assert len(left) == 2


def test_counts_name_rules_and_no_secret() -> None:
    lists = found("a@acme.org, b@acme.org, 93.184.216.34", "nothing")
    assert counts(lists) == ["email 2, ipv4 1", None]


def test_columns_of_any_shape() -> None:
    assert edits(pa.array([], pa.large_string()), Kinds()).type == EDITS
    texts = pa.chunked_array([pa.array(["x", None]), pa.array(["a@acme.org"])])
    assert [len(row) for row in edits(texts, Kinds()).to_pylist()] == [0, 0, 1]


PIECES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            *"@.:=\"'\n ",
            "token",
            "password=",
            "://a:",
            "-----BEGIN RSA PRIVATE KEY-----",
            "ghp_",
            "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6",
            "93.184.216.34",
            "2a00:1450:4001:82a::200e",
            "ada@acme.org",
            "-us1",
            "8Q~",
        ]
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=12).map("".join), max_size=4))
def test_edits_are_sound_on_any_text(texts: list[str]) -> None:
    """Ascending, apart, on character bounds; and a text's edits do not depend on its neighbours."""
    lists = found(*texts).to_pylist()
    for text, row in zip(texts, lists, strict=True):
        ends = [0, *(e["end"] for e in row)]
        assert all(e["start"] >= end for e, end in zip(row, ends, strict=False))
        assert all(e["start"] < e["end"] <= len(text.encode()) for e in row)
        apply_edits(text, row)
        assert found(text).to_pylist()[0] == row


def test_gibberish() -> None:
    assert entropy(b"aaaa") == 0
    assert entropy(b"abcd") == 2
    words = [
        b"SqueezeBertTokenizer1",
        b"password123",
        b"agpl-3.0-plus",
        b"aaaaaaaaaaaa1",
        b"x1x1x1x1",
    ]
    assert not any(random(word) for word in words)
    drawn = Random(1)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    strings = ["".join(drawn.choices(letters, k=24)).encode() for _ in range(1000)]
    assert sum(map(random, strings)) >= 990
