"""The system log of this server, read by the program that knows how.

Promise: the command ends by itself unless it is to follow; followed, it goes on over a rotation of the log. Source: tail(1),
journalctl(1).
"""

from __future__ import annotations

from pathlib import Path

from runtime.errors import HaError

#: as rsyslog writes it on Debian, and elsewhere
FILES = (Path("/var/log/syslog"), Path("/var/log/messages"))
JOURNAL = Path("/usr/bin/journalctl")
#: at most so many of the latest lines
MOST = 1_000_000


def command(lines: int, follow: bool, files: tuple[Path, ...] = FILES, journal: Path = JOURNAL) -> tuple[str, ...]:
    """Prints the latest ``lines`` lines, then, if it is to follow, each new one. Raises HaError."""
    file = next((each for each in files if each.exists()), None)
    if file is not None:
        return ("/usr/bin/tail", "-n", str(lines), *(("-F",) if follow else ()), "--", str(file))
    if journal.exists():
        return (str(journal), "--quiet", "--no-pager", "-o", "short-iso", "-n", str(lines), *(("-f",) if follow else ()))
    raise HaError(f"there is no system log here: neither {' nor '.join(map(str, files))}, and no journal")
