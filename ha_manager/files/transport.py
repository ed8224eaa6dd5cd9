"""OpenSSH for rsync: a server of our own on the passive, a client on the active, both configured from the pinned keys.

Promise: nothing of the system's sshd, of root's ``authorized_keys`` or ``known_hosts`` is read or changed. The server's key
is the node key that is pinned at the other end, so a changed one is refused. The client's key is derived by both servers from
their keys, so nothing has to be exchanged; all it opens is the gate (``ha_manager.files.gate``): no shell, no forwarding, no
terminal (``runtime.sshd``). Both live in /run only, readable by root only. Source: ssh_config(5), design §6.
"""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from runtime import sshd
from runtime.durable import write_durably
from runtime.keys import Keys

LABEL = "replicated files, rsync"
_WHAT = 'written by ha_manager: the passive\'s end of rsync (docs/protocols.md, "Replicated files")'


@dataclass(frozen=True)
class Ends:
    """Where either end is."""

    own_ip: str
    peer_ip: str
    peer: str
    port: int


def write(folder: Path, keys: Keys, ends: Ends, control: Path) -> None:
    """All files of both ends into ``folder`` (0700). Raises ConfigError if there are no keys, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.from_private_bytes(keys.derive(LABEL))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    gate = f'command="{sys.executable} -P -m ha_manager.files.gate {control}"'
    pinned = base64.b64encode(keys.required_peer().ssh).decode()
    for name, text in (
        ("client", private.decode()),
        ("host", keys.private_ssh()),
        ("authorized", f"restrict,{gate} {public}\n"),
        ("known", f"{ends.peer} ssh-ed25519 {pinned}\n"),
        ("sshd_config", sshd.config(folder, (ends.own_ip,), ends.port, _WHAT)),
        ("ssh_config", _client(folder, ends)),
    ):
        write_durably(folder / name, text, mode=0o600, durable=False)


def shell(folder: Path) -> str:
    """What rsync calls instead of ssh."""
    return f"ssh -F {folder}/ssh_config"


#: the host that ``shell`` knows
HOST = "peer"


def _client(folder: Path, ends: Ends) -> str:
    return f"""# written by ha_manager: the active's end of rsync
Host {HOST}
  HostName {ends.peer_ip}
  HostKeyAlias {ends.peer}
  Port {ends.port}
  User root
  IdentityFile {folder}/client
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  HostKeyAlgorithms ssh-ed25519
  PreferredAuthentications publickey
  BatchMode yes
  ConnectTimeout 5
  ServerAliveInterval 5
  ServerAliveCountMax 3
  Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com
  Compression no
  LogLevel ERROR
"""
