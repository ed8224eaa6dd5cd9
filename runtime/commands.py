"""Other people's programs, run with a time limit.

Promise: no shell; an own process group, killed with all descendants when time is up; returns when the program ends, even if
something it left behind keeps its output open; never blocks on that output; a message never holds a secret
(``errors.without_secrets``), and neither input nor environment is ever quoted. Source: design §2 ("command execution").
"""

from __future__ import annotations

import contextlib
import os
import pwd
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TypedDict

from .errors import CommandFailed
from .proctree import kill_tree

#: More output than this is read but not kept.
_OUTPUT_LIMIT = 8 * 1024 * 1024
_CHUNK = 65536


@dataclass(frozen=True)
class Completed:
    stdout: str
    stderr: str
    code: int
    seconds: float


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    input: bytes | str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    check: bool = True,
) -> Completed:
    """Run ``argv`` for at most ``timeout`` seconds.

    ``env`` is added to this process's environment (locale C.UTF-8, so that messages can be read by programs). ``user`` also
    changes HOME, groups and the like. Raises CommandFailed when it can't be started or runs out of time, and, with ``check``,
    when it ends with another status than 0.
    """
    words = [os.fspath(word) for word in argv]
    began = time.monotonic()
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env, user),
            cwd=cwd,
            process_group=0,
            **identity(user),
        )
    except (OSError, KeyError) as wrong:
        because = f"could not be started: {getattr(wrong, 'strerror', None) or wrong}"
        raise CommandFailed(words, None, "", because=because) from wrong
    exchange = _Exchange(child, input.encode() if isinstance(input, str) else input)
    try:
        in_time = exchange.until(began + timeout)
    finally:
        if child.poll() is None:
            # What it started may have made groups of its own (timeout(1) does); what it left behind is in its group only.
            kill_tree(child.pid, None, limit=0)
            kill_group(child.pid)
            child.wait()
        exchange.close()
    seconds = time.monotonic() - began
    stdout, stderr = exchange.text(child.stdout), exchange.text(child.stderr)
    if not in_time:
        raise CommandFailed(words, None, stderr, because=f"did not end within {timeout:g} s and was killed")
    if check and child.returncode != 0:
        raise CommandFailed(words, child.returncode, stderr)
    return Completed(stdout, stderr, child.returncode, seconds)


def kill_group(group: int) -> None:
    """SIGKILL every process of a process group; no complaint if there is none left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class Identity(TypedDict, total=False):
    """Popen's arguments for running as somebody else."""

    user: int
    group: int
    extra_groups: list[int]


def identity(user: str | None) -> Identity:
    """How Popen runs as ``user`` with all of that user's groups; empty for None. Raises KeyError for nobody known."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}


def environment(extra: Mapping[str, str] | None = None, user: str | None = None) -> dict[str, str]:
    """This process's environment for a program whose messages are to be understood, plus ``extra``."""
    result = {name: value for name, value in os.environ.items() if not name.startswith("LC_") and name != "LANGUAGE"}
    result["LC_ALL"] = "C.UTF-8"
    if user is not None:
        entry = pwd.getpwnam(user)
        result |= {"HOME": entry.pw_dir, "USER": user, "LOGNAME": user, "SHELL": entry.pw_shell}
    return result | dict(extra or {})


class _Exchange:
    """Feeds and drains one child without ever blocking on it."""

    def __init__(self, child: subprocess.Popen[bytes], input: bytes | None) -> None:
        self._child = child
        self._left = memoryview(input or b"")
        self._got: dict[IO[bytes], bytearray] = {}
        self._selector = selectors.DefaultSelector()
        self._end = os.pidfd_open(child.pid)
        self._selector.register(self._end, selectors.EVENT_READ)
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._got[stream] = bytearray()
            self._selector.register(stream, selectors.EVENT_READ)
        if child.stdin is not None:
            os.set_blocking(child.stdin.fileno(), False)
            self._selector.register(child.stdin, selectors.EVENT_WRITE)

    def until(self, end: float) -> bool:
        """True when the child has ended by ``end`` (monotonic); its output so far has been read then."""
        while (left := end - time.monotonic()) > 0:
            ended = False
            for key, _ in self._selector.select(left):
                if key.fileobj == self._end:
                    ended = True
                elif key.fileobj is self._child.stdin:
                    self._feed()
                else:
                    self._drain(key.fileobj)  # type: ignore[arg-type]
            if ended:
                for stream in list(self._got):
                    self._drain(stream)
                self._child.wait()
                return True
        return False

    def _feed(self) -> None:
        stdin = self._child.stdin
        assert stdin is not None
        try:
            self._left = self._left[os.write(stdin.fileno(), self._left[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._left = self._left[:0]
        if not self._left:
            self._selector.unregister(stdin)
            stdin.close()

    def _drain(self, stream: IO[bytes]) -> None:
        # Bounded, so that something left behind that writes without end can't keep us here.
        for _ in range(64):
            try:
                data = os.read(stream.fileno(), _CHUNK)
            except (BlockingIOError, ValueError):
                return
            if not data:
                if stream in self._selector.get_map():
                    self._selector.unregister(stream)
                return
            if len(self._got[stream]) < _OUTPUT_LIMIT:
                self._got[stream] += data

    def text(self, stream: IO[bytes] | None) -> str:
        return self._got[stream].decode(errors="replace") if stream is not None else ""

    def close(self) -> None:
        self._selector.close()
        os.close(self._end)
        for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
            if stream is not None:
                stream.close()
