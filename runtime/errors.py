"""The tree of errors that people see.

Promise: every error raised on purpose descends from ``HaError`` and its ``str()`` is a sentence that says what is wrong and,
where one is known, what to do about it. No message carries a secret. Source: house style, 6.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from os import PathLike, fspath

#: What may hold a secret in an argument or in what a command says: ``password=…``, ``PASSWORD '…'``, ``scheme://user:…@``.
_SECRETS = (
    (
        re.compile(
            r"""(?i)\b(\w*(?:password|passwd|secret|passphrase))(\s*[=:]\s*)('(?:[^'\\]|\\.|'')*'|"[^"]*"|[^\s,;'"]+)"""
        ),
        r"\1\2***",
    ),
    (re.compile(r"""(?i)\b(password\s+)('(?:[^']|'')*')"""), r"\1***"),
    (re.compile(r"(?i)([a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s@]+@"), r"\1***@"),
)

_SECRET_FLAG = re.compile(r"(?i)--?(password|passwd|secret|passphrase)")

_MESSAGE_LIMIT = 2000


def without_secrets(text: str) -> str:
    """``text`` with everything that looks like a password replaced by ``***``."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def in_words(wrong: Exception) -> str:
    """For people: of an OSError the file and what the system says of it, without its number."""
    if not isinstance(wrong, OSError) or not wrong.strerror:
        return str(wrong)
    return f"{wrong.filename}: {wrong.strerror}" if isinstance(wrong.filename, str) else wrong.strerror


class HaError(Exception):
    """Root of everything raised on purpose."""


class ConfigError(HaError):
    """What somebody wrote can't be used; nothing was changed. ``str()`` is ``file:line: message (remedy)``."""

    def __init__(
        self,
        message: str,
        *,
        file: str | PathLike[str] | None = None,
        line: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = fspath(file) if file is not None else None
        self.line = line
        self.remedy = remedy

    def __str__(self) -> str:
        place = ""
        if self.file is not None:
            place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        elif self.line:
            place = f"line {self.line}: "
        return f"{place}{self.message}" + (f" ({self.remedy})" if self.remedy else "")


class CommandFailed(HaError):
    """A command ended with ``code`` (negative: killed by that signal; None: out of time, or it could not be started)."""

    def __init__(self, argv: Sequence[str], code: int | None, stderr: str, *, because: str | None = None) -> None:
        self.argv = tuple(argv)
        self.code = code
        self.stderr = without_secrets(stderr)
        self.because = because
        super().__init__(str(self))

    def __str__(self) -> str:
        # Word by word: quoting for the shell would hide a quoted secret from the patterns.
        after_flag = zip(("", *self.argv), self.argv, strict=False)
        words = ["***" if _SECRET_FLAG.fullmatch(before) else without_secrets(word) for before, word in after_flag]
        command = shlex.join(words)
        how = self.because or (f"was killed by signal {-self.code}" if self.code is not None and self.code < 0 else None)
        how = how or f"ended with exit status {self.code}"
        said = self.stderr.strip()[-_MESSAGE_LIMIT:]
        return f"{command} {how}" + (f": {said}" if said else "")


class PeerError(HaError):
    """The other policy server can't be reached, refuses, or says something impossible."""


class ReplicationError(HaError):
    """Data can't be replicated, or what was replicated can't be trusted."""


class DidNotStart(ReplicationError):
    """Postgres ended while it was being started. ``last_words``: the last line that it wrote, "" if none was found."""

    def __init__(self, message: str, last_words: str = "") -> None:
        super().__init__(message)
        self.last_words = last_words


class ControlError(HaError):
    """A process doesn't answer on its control socket, or refused a request there."""


class NotRunning(ControlError):
    """Nobody listens on the control socket."""


class NotPermitted(ControlError):
    """Only root may ask."""


class Refused(ControlError):
    """The process answered, and said no; the text is its own."""
