"""authkeys: the keys that frames are authenticated with.

Promise: a file that anybody but root could have read or written is refused, because its keys then prove nothing; so are
keys that prove nothing by themselves, unless the compatibility flag is set. No message holds a key. Source:
facts/linux-ha-heartbeat.md (``auth N``, ``N sha1|md5|crc key``); design §5 (``sha256``).
"""

from __future__ import annotations

import os
import re
import stat

from heartbeat.frames import Key, Keyring, Method
from runtime.errors import ConfigError

_LIMIT = 65536
_MAKE = "`ha start` makes it; by hand: auth 1, then 1 sha256 and a long random word"


def load(file: str, compatible: bool = False) -> Keyring:
    """The keys in ``file``. Raises ConfigError, also for a file of the wrong owner or mode."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", file=file, remedy=_MAKE) from error
    try:
        _check_access(os.fstat(fd), file)
        content = os.read(fd, _LIMIT)
    finally:
        os.close(fd)
    return parse(content.decode(errors="replace"), file, compatible)


def _check_access(status: os.stat_result, file: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("isn't a regular file", file=file, remedy=_MAKE)
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"belongs to user {status.st_uid}, not to root", file=file, remedy=f"chown root {file}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"has mode {mode:04o}: others than root can get at the keys", file=file, remedy=f"chmod 600 {file}")


def parse(text: str, file: str = "authkeys", compatible: bool = False) -> Keyring:
    """The keys in ``text``."""
    sending: tuple[int, int] | None = None
    keys: dict[int, Key] = {}
    for line, raw in enumerate(text.splitlines(), 1):
        words = [] if raw.lstrip().startswith("#") else raw.split()
        if not words:
            continue
        if words[0] == "auth":
            if sending is not None:
                raise ConfigError("auth is there twice", file=file, line=line, remedy="keep the line of the key to send with")
            sending = _sending(words, line, file), line
            continue
        key = _key(words, line, file, compatible)
        if key.number in keys:
            raise ConfigError(f"key {key.number} is there twice", file=file, line=line, remedy="give each key its own number")
        keys[key.number] = key
    if sending is None:
        raise ConfigError("no auth directive: it isn't known which key to send with", file=file, remedy=_MAKE)
    number, line = sending
    if number not in keys:
        raise ConfigError(
            f"auth names key {number}, which isn't there", file=file, line=line, remedy=f"add: {number} sha256 KEY"
        )
    return Keyring.of(number, keys.values(), compatible)


def _sending(words: list[str], line: int, file: str) -> int:
    if len(words) != 2:
        raise ConfigError("auth takes the number of one key", file=file, line=line, remedy="write: auth 1")
    return _key_number(words[1], line, file)


def _key_number(text: str, line: int, file: str) -> int:
    if not re.fullmatch("[0-9]{1,2}", text) or not 1 <= int(text) <= 15:
        raise ConfigError("a line begins neither with auth nor with a number from 1 to 15", file=file, line=line, remedy=_MAKE)
    return int(text)


def _key(words: list[str], line: int, file: str, compatible: bool) -> Key:
    number = _key_number(words[0], line, file)
    if len(words) < 2 or words[1] not in set(Method):
        raise ConfigError(
            f"key {number} has no known method",
            file=file,
            line=line,
            remedy=f"one of {', '.join(Method)}; sha256 for a new pair",
        )
    method = Method(words[1])
    if method is Method.CRC:
        if not compatible:
            raise ConfigError(
                f"key {number}: crc proves nothing about who sent a frame", file=file, line=line,
                remedy=f"write: {number} sha256 KEY; next to an old Linux-HA node, `compatibility on` in ha.cf allows it",
            )  # fmt: skip
        return Key(number, method)
    if len(words) != 3:
        raise ConfigError(f"key {number} isn't one word", file=file, line=line, remedy=f"write: {number} {method} KEY")
    return Key(number, method, words[2].encode())
