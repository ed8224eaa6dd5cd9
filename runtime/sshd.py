"""An sshd of our own for rsync: what it lets in, and how it is started.

Promise: nothing of the system's sshd or of root's ``authorized_keys`` is read or changed; only the keys in its own folder log
in, each with a forced command: no password, no forwarding, no terminal. Where root's password is locked, as on many servers,
sshd lets nobody in unless it leaves that question to PAM: then it does. Source: sshd_config(5); design §6.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROGRAM = "/usr/sbin/sshd"

_DIRECTIVES = """HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
AllowUsers root
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin forced-commands-only
StrictModes no
DisableForwarding yes
PermitTTY no
PermitUserRC no
PrintMotd no
UseDNS no
PidFile none
LoginGraceTime 5
MaxAuthTries 2
MaxStartups 4:50:12
ClientAliveInterval 5
ClientAliveCountMax 3
LogLevel ERROR
"""


def config(folder: Path, addresses: Iterable[str], port: int, what: str) -> str:
    """For ``folder``/sshd_config; beside it lie ``host`` and ``authorized``. ``what``: for its first line."""
    places = (f"[{address}]" if ":" in address else address for address in addresses)
    listens = "".join(f"ListenAddress {place}:{port}\n" for place in places)
    return f"# {what}\n{listens}{_DIRECTIVES.format(folder=folder)}"


def argv(folder: Path, *, locked: bool = False) -> list[str]:
    """In the foreground, its complaints on stderr; ``locked``: root's account is."""
    return [PROGRAM, "-D", "-e", "-f", str(folder / "sshd_config"), "-o", f"UsePAM={'yes' if locked else 'no'}"]


def root_is_locked(shadow: Path = Path("/etc/shadow")) -> bool:
    """In the sense in which sshd refuses every key: its password begins with "!"."""
    try:
        lines = shadow.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("root:!") for line in lines)
