"""rsync's command line, on either side.

Promise: pure. The same table makes the sender's options and says what the gate on the passive lets through, so what was not
meant here is not run there. Same-size changes within a second are never skipped (``--modify-window=-1``: times to the
nanosecond). Source: rsync(1); facts/file-replication-and-libraries.md (what rsync's quick check misses); design §6 (on
``rrsync``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ha_manager.files.staging import PARTIAL

#: without a word for so long a transfer is over (seconds)
TIMEOUT = 20
PROGRAM = "/usr/bin/rsync"


@dataclass(frozen=True)
class Pass:
    """What one rsync does. ``folder``: where it reads; it writes to the same path below the staging directory. ``names``: only
    these paths, relative to ``folder``, those that are gone removed; empty: all of it, mirrored.
    """

    entry: str
    folder: str
    names: tuple[str, ...] = ()
    owner: str = ""
    exclude: tuple[str, ...] = ()
    checksum: bool = False
    #: KiB a second; 0: as fast as it goes
    bandwidth: int = 0
    #: each file is flushed before it gets its name
    flush: bool = False


def argv(transfer: Pass, shell: str, gate: str, host: str) -> list[str]:
    """The sender's command. ``shell``: as for ``rsync -e``; ``gate``: the words that the gate finds before rsync's own."""
    options = [
        # With hard links, and something vanishing meanwhile, rsync that still looks for files while it sends waits for ever.
        "-aHAX", "--no-D", "--no-inc-recursive", "--modify-window=-1", f"--partial-dir={PARTIAL}",
        f"--timeout={TIMEOUT}", "--info=progress2",
        "--outbuf=L", "-e", shell, f"--rsync-path={gate}",
    ]  # fmt: skip
    if transfer.checksum:
        options.append("-c")
    if transfer.flush:
        options.append("--fsync")
    if transfer.owner:
        options.append(f"--chown={transfer.owner}")
    if transfer.bandwidth:
        options.append(f"--bwlimit={transfer.bandwidth}")
    if transfer.names:
        options += ["-r", "--files-from=-", "--from0", "--delete-missing-args", "--delete-delay"]
    else:
        options += ["--delete-delay", *(f"--exclude={_pattern(path)}" for path in transfer.exclude)]
    return [PROGRAM, *options, "--", transfer.folder.rstrip("/") + "/", f"{host}:."]


def _pattern(relative: str) -> str:
    """A path for --exclude, anchored where the transfer begins."""
    if re.search(r"[*?\[]", relative):
        relative = re.sub(r"([\\*?\[\]])", r"\\\1", relative)
    return "/" + relative


#: what may be asked of the gate's rsync: options that would read, follow links or write elsewhere are none of them
_ALLOWED = re.compile(
    r"--server|-[lHogtpAXrcR]+e[0-9]*\.[a-zA-Z]*|-@-1|--modify-window=-1|--timeout=[0-9]+|--bwlimit=[0-9]+|--delete-delay"
    r"|--delete-missing-args|--from0|--fsync|--partial-dir|(?:--partial-dir=)?\.ha-partial|--(?:user|group)map=\*:[A-Za-z0-9_.-]+|\."
)


def why_refused(words: Sequence[str]) -> str:
    """ "" if the gate may run rsync with these words: a receiver that writes below the directory in which it is started."""
    if not words or words[0] != "--server":
        return "not a server of rsync"
    for word in words:
        if not _ALLOWED.fullmatch(word):
            return f"{word!r} is not an option that ha_manager uses"
    return ""


_PROGRESS = re.compile(r"\s*([\d,]+)\s+(\d+)%\s+(\S+)\s")


def progress(line: str) -> tuple[int, int, str] | None:
    """(bytes, per cent, speed in rsync's words) of a line of ``--info=progress2``."""
    found = _PROGRESS.match(line)
    return (int(found[1].replace(",", "")), int(found[2]), found[3]) if found else None


#: what rsync says after whoever knew the reason has said it
_EMPTY = ("rsync error:", "rsync: connection unexpectedly closed")


#: all is there but what vanished while it ran: no failure by itself, but other names of the same file may be missing with it
VANISHED = "some of it vanished while it was copied"


def words(code: int, said: str) -> str:
    """Why a transfer failed, "" if it didn't."""
    if code in (0, 24):
        return VANISHED if code else ""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(_EMPTY)]
    knows = [line for line in lines if "ha_manager:" in line] or [line for line in lines if re.search(r"\(\d+\)$", line)]
    told = (knows[:1] or lines[-1:] or [f"rsync ended with {code}"])[0]
    if "permission denied (publickey" in said.lower():
        return (
            "the other server refuses the key of the transfers. After an exchange of keys: SIGHUP to ha_manager on both. Its"
            " root account may have expired (`chage -l root` there), or its PAM (sshd) let nobody in"
        )
    if "host key verification failed" in said.lower():
        return (
            "the other server answers with another key than the pinned one. If it was given a new key on purpose: `ha keys"
            " show` there, `ha keys accept --replace` with its line here. If not, another has its address"
        )
    return told.strip()
