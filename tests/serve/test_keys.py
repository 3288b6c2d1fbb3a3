"""Keys come from a private file and the environment, and follow the file."""

import logging
import os
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.core.errors import RecipeError
from serve import keys
from serve.keys import Keyring, env_keys, file_keys


def hashed(*names: str) -> tuple[str, ...]:
    return tuple(sha256(name.encode()).hexdigest() for name in names)


def write(file: Path, text: str) -> str:
    file.write_text(text)
    os.chmod(file, 0o600)
    return str(file)


def test_a_file_is_private_and_has_a_key(tmp_path: Path) -> None:
    assert file_keys(None) == ()
    file = tmp_path / "keys"
    with pytest.raises(RecipeError, match="no keys file"):
        file_keys(str(file))
    write(file, "# ours\none\n\n two \n")
    assert file_keys(str(file)) == hashed("one", "two")
    os.chmod(file, 0o640)
    with pytest.raises(RecipeError, match=r"0640.*chmod 600"):
        file_keys(str(file))
    with pytest.raises(RecipeError, match="no key"):
        file_keys(write(file, "# none yet\n"))


def test_the_environment_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ICEFLOE_API_KEY", raising=False)
    assert env_keys() == ()
    monkeypatch.setenv("ICEFLOE_API_KEY", "three")
    assert env_keys() == hashed("three")
    monkeypatch.setenv("ICEFLOE_API_KEY", " ")
    with pytest.raises(RecipeError, match="empty"):
        env_keys()


def test_a_ring_follows_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "EVERY", 0)
    file = tmp_path / "keys"
    path = write(file, "one\n")
    ring = Keyring(hashed("fixed"), file_keys(path), path)
    assert [ring.who(k) for k in ("one", "fixed")] == [*hashed("one", "fixed")]
    assert ring.who("two") is None
    write(file, "two\nand three\n")
    assert ring.who("two")
    assert ring.who("fixed")
    assert ring.who("one") is None
    with caplog.at_level(logging.ERROR):
        write(file, "")
        assert ring.who("two")
        file.unlink()
        assert ring.who("two")
    assert "stay as they were" in caplog.text
    assert bool(ring)


def test_a_later_replica_goes_by_the_file_of_its_time(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "revoked\n")
    deployed = file_keys(path)
    write(tmp_path / "keys", "newer\n")
    ring = Keyring((), deployed, path)
    assert ring.who("revoked") is None
    assert ring.who("newer")


def test_a_file_that_is_no_text_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "EVERY", 0)
    path = write(tmp_path / "keys", "one\n")
    ring = Keyring((), file_keys(path), path)
    assert ring.who("one")
    (tmp_path / "keys").write_bytes(b"\xff\xfe\n")
    with pytest.raises(RecipeError, match="no text"):
        file_keys(path)
    assert ring.who("one")


def test_a_ring_without_its_file_keeps_what_it_was_given() -> None:
    ring = Keyring((), hashed("one"), "/nowhere/keys")
    assert ring.who("one")
    assert not Keyring()
