"""The administrator's configuration of Postgres: as it is, and as it could be used last.

Promise: one mistake in it never keeps the role from changing. Postgres loads all of its files or none: a name that it doesn't
know in postgresql.conf, and at each reload everything of ours stays as it was, too, who must acknowledge a commit, whether a
new primary takes writes. So what is in the files is tried before it counts; while it can't be used, or would make a promise of
ours false (``settings.refuse``), the settings that were used last do, from a copy of ours, and an alarm names the line. The
administrator's files are read, never edited. Source: Postgres's guc-file.l ("no changes were applied"); design §4 rule 6, §6.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path

from ha_manager import cluster, settings
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.settings import Setting
from runtime import commands
from runtime.errors import CommandFailed, ConfigError, HaError

#: the files are looked at so often (seconds)
PERIOD = 1.0
_LIMIT = 5.0


@dataclass(frozen=True)
class Settings:
    """What counts. ``file``: what a settings file of ours includes; ``wrong``: why it isn't what the administrator wrote."""

    found: Mapping[str, Setting]
    file: Path
    wrong: str = ""


def read(config: PostgresConfig) -> Settings:
    """What is in the administrator's files, if it can be used; else what could be used last. Raises ConfigError where there is
    nothing else.
    """
    kept = Paths(config.state_dir).kept
    try:
        return Settings(verified(config), config.config_file)
    except ConfigError as wrong:
        if not kept.exists():
            raise
        return Settings(cluster.read_settings(kept), kept, str(wrong))


def verified(config: PostgresConfig) -> dict[str, Setting]:
    """What is in the administrator's files. Raises ConfigError if it can't be used."""
    found = cluster.read_settings(config.config_file)
    settings.refuse(found, {})
    if wrong := _refused(config, tuple(sorted((name, one.value) for name, one in found.items()))):
        name = re.search(r'parameter "(\w+)"', wrong)
        place = found.get(name[1].lower()) if name is not None else None
        if place is None:
            raise ConfigError(wrong, file=config.config_file, remedy="correct it")
        raise ConfigError(re.sub(' in file ".*" line [0-9]+', "", wrong), file=place.file, line=place.line, remedy="correct it")
    return found


def text(found: Mapping[str, Setting]) -> str:
    """For our copy."""
    lines = (f"{name} = {settings.quote(one.value)}\n" for name, one in found.items())
    return "# The administrator's settings, as Postgres could use them last. Written by ha_manager.\n" + "".join(lines)


@lru_cache(8)
def _refused(config: PostgresConfig, _: tuple[tuple[str, str], ...]) -> str:
    """What Postgres says against the files that hold these settings; "" if nothing, or if it can't be asked.

    Not in the data directory: what ALTER SYSTEM wrote there is no part of this, and Postgres says that it isn't there.
    """
    nowhere = str(config.bin_dir)
    argv = [f"{nowhere}/postgres", "-C", "port", "-D", nowhere]
    argv += ["-c", f"config_file={config.config_file}", "-c", f"data_directory={nowhere}"]
    try:
        done = commands.run(argv, timeout=_LIMIT, user=config.user, cwd="/", check=False)
    except CommandFailed:
        return ""
    said = re.findall(r"(?:LOG|FATAL|ERROR): +(?! |skipping missing)(.*)", done.stderr)
    return said[0] if done.code and said else ""


class Watch:
    """Looks for changes of the files now and then; whether they can be used is found out in a thread of its own."""

    def __init__(self) -> None:
        self._looked_at = -inf
        self._paths: list[Path] = []
        self._marks: object = None
        self._ours: object = None
        self._asking: threading.Thread | None = None
        self._wrong, self._due = "", False

    def look(self, config: PostgresConfig, now: float) -> tuple[str, bool]:
        """Why the administrator's files can't be used, "" if they can; and whether our own settings file must be written anew
        on that account.
        """
        if now - self._looked_at >= PERIOD and (self._asking is None or not self._asking.is_alive()):
            self._looked_at = now
            if self._marks_now(config) != self._marks:
                self._paths = _paths(config)
                self._marks = self._marks_now(config)
                self._asking = threading.Thread(target=self._ask, args=(config,), name="administrator", daemon=True)
                self._asking.start()
        return self._wrong, self._due and self._ours == _ours(config)

    def _marks_now(self, config: PostgresConfig) -> object:
        return _ours(config), tuple(map(_mark, self._paths))

    def _ask(self, config: PostgresConfig) -> None:
        ours = _ours(config)
        try:
            wrong, due = judge(config)
        except (HaError, OSError):
            return
        self._ours, self._wrong, self._due = ours, wrong, due


def judge(config: PostgresConfig) -> tuple[str, bool]:
    """``Watch.look``, now. Raises ConfigError or OSError."""
    now, paths = read(config), Paths(config.state_dir)
    included = f"include {settings.quote(str(now.file))}\n" in paths.settings.read_text()
    stale = not now.wrong and (not paths.kept.exists() or paths.kept.read_text() != text(now.found))
    return now.wrong, stale or not included


def _paths(config: PostgresConfig) -> list[Path]:
    """Files and folders that are read of the administrator's, as far as they can be."""
    found: list[Path] = []
    with contextlib.suppress(ConfigError):
        cluster.read_settings(config.config_file, found)
    return found


def _ours(config: PostgresConfig) -> object:
    """The state of our own files."""
    paths = Paths(config.state_dir)
    return _mark(paths.settings), _mark(paths.kept)


def _mark(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode, found.st_uid
