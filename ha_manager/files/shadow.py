"""Whether a shadow file may take the place of the one here: nobody is to be locked out by a failover.

Promise: pure. Refused without root, and when it lacks an account that exists on this server and had a line here; both would
leave somebody unable to log in at the very moment when somebody has to. Source: shadow(5).
"""

from __future__ import annotations

PATH = "/etc/shadow"


def why_not(staged: bytes, here: bytes, passwd: bytes) -> str:
    """ "" if ``staged`` may replace ``here``; ``passwd``: this server's /etc/passwd."""
    offered = _accounts(staged)
    if b"root" not in offered:
        return "it has no line for root"
    local = _accounts(passwd) & _accounts(here)
    missing = sorted(name.decode(errors="replace") for name in local - offered)
    if missing:
        return f"it lacks {', '.join(missing)}: make the same accounts on both servers"
    return ""


def _accounts(text: bytes) -> set[bytes]:
    """Names of the lines that have a name and a second field."""
    return {line.split(b":")[0] for line in text.split(b"\n") if line.count(b":") >= 1 and not line.startswith((b":", b"#"))}
