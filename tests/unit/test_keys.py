"""Node keys: made, shown, pinned, refused; both sides derive the same and nobody else does."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.keys import Keys, parse


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Keys, Keys]:
    a, b = Keys(tmp_path / "a"), Keys(tmp_path / "b")
    a.make("vs-166")
    b.make("vs-28")
    a.accept(b.show().line)
    b.accept(a.show().line)
    return a, b


def test_a_key_survives_its_line(pair: tuple[Keys, Keys]) -> None:
    key = pair[0].show()
    assert parse(key.line) == key
    assert parse(f"  {key.line}\n") == key
    assert key.line.startswith("ha-key-1 vs-166 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI")


def test_both_sides_derive_the_same_and_labels_are_separate(pair: tuple[Keys, Keys]) -> None:
    a, b = pair
    secret = a.derive("heartbeat authkeys")
    assert len(secret) == 32
    assert secret == b.derive("heartbeat authkeys")
    assert secret != a.derive("postgres replication")


def test_a_third_node_derives_another_secret(pair: tuple[Keys, Keys], tmp_path: Path) -> None:
    a, b = pair
    c = Keys(tmp_path / "c")
    c.make("vs-3")
    c.accept(a.show().line)
    secret = a.derive("x")
    assert c.derive("x") != secret
    b.accept(c.show().line, replace=True)
    assert b.derive("x") not in (secret, a.derive("x"))


def test_private_key_is_private_and_openssh_reads_it(pair: tuple[Keys, Keys], tmp_path: Path) -> None:
    file = tmp_path / "a" / "node.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    if shutil.which("ssh-keygen"):
        public = subprocess.run(["ssh-keygen", "-y", "-f", str(file)], capture_output=True, text=True, check=True).stdout
        assert public.split()[1] == pair[0].show().line.split()[3]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_can_open_is_refused(pair: tuple[Keys, Keys], tmp_path: Path, mode: int) -> None:
    (tmp_path / "a" / "node.key").chmod(mode)
    with pytest.raises(ConfigError, match=rf"a/node.key: others may .*{mode:04o}.*chmod 600"):
        pair[0].derive("x")


def test_make_does_not_overwrite(pair: tuple[Keys, Keys]) -> None:
    a, _ = pair
    before = a.show()
    with pytest.raises(ConfigError, match=r"has a key already.*--force"):
        a.make("vs-166")
    assert a.show() == before
    assert a.make("vs-166", force=True) != before
    assert a.show() != before


def test_another_key_of_the_peer_is_refused_with_the_remedy(pair: tuple[Keys, Keys]) -> None:
    a, b = pair
    old = b.show()
    new = b.make("vs-28", force=True)
    with pytest.raises(ConfigError, match=f"{old.fingerprint}.*{new.fingerprint}.*ha keys accept --replace"):
        a.accept(new.line)
    assert a.peer() == old
    assert a.accept(old.line) == old  # again: no change
    a.accept(new.line, replace=True)
    assert a.peer() == new


def test_own_key_is_not_the_peers(pair: tuple[Keys, Keys], tmp_path: Path) -> None:
    a, _ = pair
    with pytest.raises(ConfigError, match="this server itself"):
        a.accept(a.show().line, replace=True)


def test_fingerprint_is_short_and_covers_every_part(pair: tuple[Keys, Keys]) -> None:
    key, other = pair[0].show(), pair[1].show()
    assert len(key.fingerprint) == 19
    changed = [
        parse(key.line.replace("vs-166", "vs-167")),
        type(key)(key.node, other.ed25519, key.x25519),
        type(key)(key.node, key.ed25519, other.x25519),
    ]
    assert len({key.fingerprint, *(c.fingerprint for c in changed)}) == 4


def test_without_keys_the_remedy_is_named(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with pytest.raises(ConfigError, match=r"node.pub.*ha keys make"):
        keys.show()
    keys.make("vs-1")
    with pytest.raises(ConfigError, match="ha keys accept"):
        keys.derive("x")


def _cut(line: str) -> str:
    return line[:-6]


def _swapped(line: str) -> str:
    words = line.split()
    words[3] = words[5]
    return " ".join(words)


def _rsa(line: str) -> str:
    words = line.split()
    words[3] = base64.b64encode(b"\0\0\0\x07ssh-rsa" + bytes(44)).decode()
    return " ".join(words)


@pytest.mark.parametrize(
    "spoil",
    [
        _cut,
        _swapped,
        _rsa,
        lambda line: "",
        lambda line: line.replace("ha-key-1", "ha-key-2"),
        lambda line: line.replace("x25519 ", "x25519 !"),
        lambda line: line.replace("vs-28", "../etc"),
        lambda line: line + " more",
    ],
)
def test_a_wrong_line_is_refused_and_nothing_changes(pair: tuple[Keys, Keys], spoil: object) -> None:
    a, b = pair
    assert callable(spoil)
    with pytest.raises(ConfigError, match="ha keys show"):
        a.accept(spoil(b.show().line), replace=True)
    assert a.peer() == b.show()


@pytest.mark.parametrize("text", ["", "junk", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"])
def test_a_damaged_private_key_is_refused_in_words(pair: tuple[Keys, Keys], tmp_path: Path, text: str) -> None:
    (tmp_path / "a" / "node.key").write_text(text)
    with pytest.raises(ConfigError, match="not a private node key"):
        pair[0].derive("x")


def test_a_peer_key_of_low_order_is_refused(pair: tuple[Keys, Keys]) -> None:
    a, b = pair
    a.accept(type(b.show())("vs-28", b.show().ed25519, bytes(32)).line, replace=True)
    with pytest.raises(ConfigError, match="can't be used"):
        a.derive("x")
