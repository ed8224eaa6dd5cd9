"""Node keys: what the two servers of a pair, notifiers and devices know each other by.

Promise: the private half stays in ``node.key`` (0600) and is refused when others can read it; a pinned peer key is never
replaced silently; both servers derive the same secrets from their own private and the other's public key, so no secret ever
travels. Source: docs/protocols.md ("Files", "The session between the ha_managers"); design §6; HKDF: RFC 5869, X25519: RFC
7748.

A node has an ed25519 key (host and client key of the SSH session, in OpenSSH's format) and an x25519 key (derivations).
Both public halves are in one line that an administrator carries to the other server: ``ha-key-1 NODE ssh-ed25519 AAAA…
x25519 BBBB…``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from runtime.durable import write_durably
from runtime.errors import ConfigError

DIRECTORY = Path("/etc/ha_manager/keys")
_WORD = "ha-key-1"
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SSH_PREFIX = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
#: Crockford's base32: nothing that sounds or looks alike
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_FINGERPRINT_GROUPS = 4
_AGAIN = "copy the whole line that `ha keys show` prints on the other server"


@dataclass(frozen=True)
class PublicKey:
    """The public halves of a node's keys, 32 bytes each."""

    node: str
    ed25519: bytes
    x25519: bytes

    @property
    def ssh(self) -> bytes:
        """The ed25519 key as SSH sends it."""
        return _SSH_PREFIX + self.ed25519

    @property
    def line(self) -> str:
        ssh = base64.b64encode(self.ssh).decode()
        return f"{_WORD} {self.node} ssh-ed25519 {ssh} x25519 {base64.b64encode(self.x25519).decode()}"

    @property
    def fingerprint(self) -> str:
        """To compare by phone: 80 bits over the node's name and both keys, as ``7k3d-m9qx-0v2t-hc5w``."""
        number = int.from_bytes(hashlib.sha256(self.line.encode()).digest()[:10])
        digits = "".join(_DIGITS[number >> (5 * i) & 31] for i in reversed(range(4 * _FINGERPRINT_GROUPS)))
        return "-".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def parse(line: str, file: Path | None = None) -> PublicKey:
    """The key in ``line``; ConfigError says what is wrong with it."""
    words = line.split()
    if len(words) != 6 or (words[0], words[2], words[4]) != (_WORD, "ssh-ed25519", "x25519"):
        raise ConfigError(f"not a node key ({_WORD} NODE ssh-ed25519 … x25519 …)", file=file, remedy=_AGAIN)
    if not _NODE.fullmatch(words[1]):
        raise ConfigError(f"{words[1]!r} is no node name", file=file, remedy=_AGAIN)
    ssh, x25519 = _bytes(words[3], "ssh-ed25519", file), _bytes(words[5], "x25519", file)
    if not ssh.startswith(_SSH_PREFIX) or len(ssh) != len(_SSH_PREFIX) + 32 or len(x25519) != 32:
        raise ConfigError("the node key is cut short or changed", file=file, remedy=_AGAIN)
    return PublicKey(words[1], ssh[len(_SSH_PREFIX) :], x25519)


def _bytes(text: str, what: str, file: Path | None) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ConfigError(f"the {what} part of the node key is cut short or changed", file=file, remedy=_AGAIN) from None


class Keys:
    """The keys in one directory (0700)."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self.directory = directory
        self._private, self._public, self._pinned = (directory / n for n in ("node.key", "node.pub", "peer.pub"))

    def make(self, node: str, *, force: bool = False) -> PublicKey:
        """Make this node's keys. ConfigError if there are some and ``force`` is not given: the peer would no longer know us."""
        if not _NODE.fullmatch(node):
            raise ConfigError(f"{node!r} is no node name", remedy="letters, digits, dots and hyphens, at most 63")
        if self._private.exists() and not force:
            raise ConfigError(
                "this node has a key already",
                file=self._private,
                remedy="`ha keys show` prints it; with --force a new one replaces it, which the peer must then accept",
            )
        signing, deriving = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        key = _public(node, signing, deriving)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._private, _private_text(signing, deriving), mode=0o600)
        write_durably(self._public, key.line + "\n", mode=0o644)
        return key

    def show(self) -> PublicKey:
        """This node's public key; ConfigError if there is none, or node.pub doesn't belong to node.key."""
        key = parse(_read(self._public, "`ha keys make` makes one"), self._public)
        if key != _public(key.node, *self._load()):
            raise ConfigError(
                "node.pub doesn't belong to node.key", file=self._public, remedy="`ha keys make --force` makes both anew"
            )
        return key

    def peer(self) -> PublicKey | None:
        """The pinned key of the peer; None if none was accepted yet."""
        return parse(_read(self._pinned, ""), self._pinned) if self._pinned.exists() else None

    def accept(self, line: str, *, replace: bool = False) -> PublicKey:
        """Pin the peer's key. ConfigError if it is our own, or if another one is pinned and ``replace`` is not given."""
        key, own, pinned = parse(line), self.show(), self.peer()
        if own.ed25519 == key.ed25519 or own.x25519 == key.x25519 or own.node == key.node:
            raise ConfigError(f"this is the key of {own.node}, this server itself", remedy=_AGAIN)
        if pinned is not None and pinned != key and not replace:
            raise ConfigError(
                f"another key is pinned for the peer: {pinned.node} {pinned.fingerprint}, not {key.node} {key.fingerprint}",
                file=self._pinned,
                remedy="if the peer was given a new key on purpose, `ha keys accept --replace` with its line",
            )
        if pinned != key:
            write_durably(self._pinned, key.line + "\n", mode=0o644)
        return key

    def derive(self, label: str, other: PublicKey | None = None) -> bytes:
        """32 secret bytes that only this node and ``other`` (the peer) can compute, the same at both; others for each label."""
        own, peer = self.show(), other or self.required_peer()
        try:
            shared = self._load()[1].exchange(X25519PublicKey.from_public_bytes(peer.x25519))
        except ValueError:
            raise ConfigError(f"the key of {peer.node} can't be used to derive secrets", remedy=_AGAIN) from None
        both = b"".join(sorted(k.ed25519 + k.x25519 for k in (own, peer)))
        return HKDF(hashes.SHA256(), 32, salt=None, info=f"{_WORD} {label}\0".encode() + both).derive(shared)

    def required_peer(self) -> PublicKey:
        """The pinned key; ConfigError, with the remedy, if there is none."""
        peer = self.peer()
        if peer is None:
            raise ConfigError(
                "no key of the peer is pinned", file=self._pinned, remedy="`ha keys accept` with the line of its `ha keys show`"
            )
        return peer

    def private_ssh(self) -> str:
        """The private ed25519 key in OpenSSH's format. ``ssh -i node.key`` reads the file itself."""
        return _openssh(self._load()[0])

    def _load(self) -> tuple[Ed25519PrivateKey, X25519PrivateKey]:
        _refuse_open(self._private)
        text = _read(self._private, "`ha keys make` makes one")
        blocks = re.findall(r"-----BEGIN [A-Z ]+-----\n.*?\n-----END [A-Z ]+-----\n", text, re.DOTALL)
        try:
            signing, deriving = load_ssh_private_key(blocks[0].encode(), None), load_pem_private_key(blocks[1].encode(), None)
        except (IndexError, ValueError, UnsupportedAlgorithm):
            signing = deriving = None  # type: ignore[assignment]
        if not isinstance(signing, Ed25519PrivateKey) or not isinstance(deriving, X25519PrivateKey):
            raise ConfigError("not a private node key", file=self._private, remedy="`ha keys make --force` makes a new one")
        return signing, deriving


def _public(node: str, signing: Ed25519PrivateKey, deriving: X25519PrivateKey) -> PublicKey:
    raw = Encoding.Raw, PublicFormat.Raw
    return PublicKey(node, signing.public_key().public_bytes(*raw), deriving.public_key().public_bytes(*raw))


def _openssh(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def _private_text(signing: Ed25519PrivateKey, deriving: X25519PrivateKey) -> str:
    """OpenSSH reads the first block of a file and ignores what follows."""
    return _openssh(signing) + deriving.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _read(path: Path, remedy: str) -> str:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise ConfigError("the node key doesn't exist", file=path, remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"the node key can't be read: {e}", file=path) from e


def _refuse_open(path: Path) -> None:
    try:
        state = path.stat()
    except OSError:
        return  # reading it will say so
    if state.st_mode & 0o077:
        raise ConfigError(
            f"others may read or write the private key (mode {stat.S_IMODE(state.st_mode):04o})",
            file=path,
            remedy=f"chmod 600 {path}; if it was so for long, `ha keys make --force`",
        )
    if state.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"the private key belongs to user {state.st_uid}", file=path, remedy=f"chown root {path}")
