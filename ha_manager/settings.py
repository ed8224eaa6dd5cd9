"""Postgres's configuration files: read what the administrator wrote, decide what we add; pure but for a reader handed in.

Promise: each setting is known with file and line; what contradicts HA is refused with both and a remedy; what we add is a text.
Settings that may only grow (connections, senders, slots) never shrink below the administrator's, or below what a standby needs.
Source: Postgres manual, 20.1.2 (file syntax), 20.6 (replication); facts/postgres.md 1, 9, 10; design §6.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ha_manager.rejoin import Control
from runtime.errors import ConfigError

#: Text of a file, or names in a folder; None: it isn't there.
ReadFile = Callable[[Path], str | None]
ListFolder = Callable[[Path], list[str]]

_LINE = re.compile(r"""^\s*([A-Za-z_][\w.$]*)\s*(?:=\s*|\s+)('(?:[^'\\]|''|\\.)*'|[^\s#']+)\s*(?:\#.*)?$""")
_INCLUDES = ("include", "include_if_exists", "include_dir")
_DEPTH = 10


@dataclass(frozen=True)
class Setting:
    value: str
    file: Path
    line: int


def read(path: Path, read_file: ReadFile, list_folder: ListFolder, depth: int = 0) -> dict[str, Setting]:
    """Settings of ``path`` with everything it includes; the last one of a name counts. Raises ConfigError."""
    text = read_file(path)
    if text is None:
        raise ConfigError("there is no such file", file=path)
    if depth > _DEPTH:
        raise ConfigError("files include each other without end", file=path)
    found: dict[str, Setting] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise ConfigError(f"not a setting: {line.strip()[:60]!r}", file=path, line=number, remedy="write name = 'value'")
        name, value = match[1].lower(), _unquote(match[2])
        if name in _INCLUDES:
            for each in _included(name, path.parent / value, read_file, list_folder):
                found |= read(each, read_file, list_folder, depth + 1)
        else:
            found[name] = Setting(value, path, number)
    return found


def _included(kind: str, path: Path, read_file: ReadFile, list_folder: ListFolder) -> list[Path]:
    if kind == "include_dir":
        return [path / name for name in sorted(list_folder(path)) if name.endswith(".conf") and not name.startswith(".")]
    return [] if kind == "include_if_exists" and read_file(path) is None else [path]


def _unquote(text: str) -> str:
    if not text.startswith("'"):
        return text
    return re.sub(r"\\(.)", r"\1", text[1:-1].replace("''", "'"))


def quote(text: str) -> str:
    """A value as postgresql.conf wants it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


# --- what we add --------------------------------------------------------------------------------------------------------------

#: Ours, whatever the administrator says.
FIXED: Mapping[str, str] = {
    "hot_standby": "on",
    "wal_log_hints": "on",
    "listen_addresses": "*",
    "wal_sender_timeout": "3s",
    "wal_receiver_timeout": "3s",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "200ms",
    "recovery_target_timeline": "latest",
}
#: Changed while it runs, in a file of its own.
DYNAMIC = (
    "synchronous_standby_names", "primary_conninfo", "primary_slot_name", "max_standby_streaming_delay",
    "max_standby_archive_delay",
)  # fmt: skip
#: A setting of our own.
LINEAGE = "ha_manager.lineage"
_READ_ONLY = "default_transaction_read_only"
#: At least so much. ``superuser_reserved_connections``: clients that take every connection must not lock ha_manager out.
LEAST: Mapping[str, int] = {"max_wal_senders": 10, "max_replication_slots": 10, "superuser_reserved_connections": 5}
#: A standby with less than its active had refuses to replay (manual, 27.4.3). Postgres's own defaults.
FLOORS: Mapping[str, int] = {
    "max_connections": 100, "max_worker_processes": 8, "max_wal_senders": 10, "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}  # fmt: skip
#: Postgres can sync whole file systems from this version on
_SYNCFS = 14
_OFF = ("off", "false", "no", "0", "of", "f", "n", "fa", "fal", "fals")
_EMPTY_WANTED = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
)


@dataclass(frozen=True)
class Dynamic:
    """What changes with the role."""

    names: str = ""
    conninfo: str = ""
    slot: str = ""
    #: a promotion must not wait for queries of readers
    hurry: bool = False
    #: a standby's: one that somebody promotes by hand refuses writes; the administrator's own setting where it is False
    read_only: bool = False
    #: a primary's ``Lineage.text``: whoever may replicate can read it (SHOW), without ha_manager's session
    lineage: str = ""

    def text(self) -> str:
        values = {
            "synchronous_standby_names": self.names,
            "primary_conninfo": self.conninfo,
            "primary_slot_name": self.slot,
            "max_standby_streaming_delay": "0" if self.hurry else "5s",
            "max_standby_archive_delay": "0" if self.hurry else "5s",
            LINEAGE: self.lineage,
        }
        if self.read_only:
            values[_READ_ONLY] = "on"
        return "".join(f"{name} = {quote(value)}\n" for name, value in values.items())

    @classmethod
    def parse(cls, found: Mapping[str, Setting]) -> Dynamic:
        def value(name: str) -> str:
            return found[name].value if name in found else ""

        return cls(
            names=value("synchronous_standby_names"),
            conninfo=value("primary_conninfo"),
            slot=value("primary_slot_name"),
            hurry=value("max_standby_streaming_delay") == "0",
            read_only=value(_READ_ONLY) == "on",
            lineage=value(LINEAGE),
        )


@dataclass(frozen=True)
class Static:
    """What our settings file holds beside the dynamic part."""

    admin_file: Path
    dynamic_file: Path
    data_dir: Path
    hba_file: Path
    ident_file: Path
    slot_keep_mb: int
    values: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        lines = [
            "# Written by ha_manager; used while high availability is on. Your settings belong into the file included first.",
            f"include {quote(str(self.admin_file))}",
            *(f"{name} = {quote(value)}" for name, value in self.values.items()),
            f"data_directory = {quote(str(self.data_dir))}",
            f"hba_file = {quote(str(self.hba_file))}",
            f"ident_file = {quote(str(self.ident_file))}",
            f"include {quote(str(self.dynamic_file))}",
        ]
        return "\n".join(lines) + "\n"


def decide(
    admin: Mapping[str, Setting], control: Control | None, slot_keep_mb: int, port: int, version: int = 0
) -> dict[str, str]:
    """The settings that we add to the administrator's; ``control`` tells what the active had."""
    values = dict(FIXED)
    values["port"] = str(port)
    values["wal_level"] = "logical" if _value(admin, "wal_level") == "logical" else "replica"
    needed = floors_of(control)
    for name in sorted(FLOORS.keys() | LEAST.keys()):
        base = _number(admin, name, FLOORS.get(name, 3 if name.startswith("superuser") else 10))
        values[name] = str(max(base, LEAST.get(name, 0), needed.get(name, 0)))
    if "wal_keep_size" not in admin:
        values["wal_keep_size"] = "256MB"
    if "max_slot_wal_keep_size" not in admin and slot_keep_mb:
        values["max_slot_wal_keep_size"] = f"{slot_keep_mb}MB"
    if version >= _SYNCFS and "recovery_init_sync_method" not in admin:
        # After a power cut, a copy and a rewind all files are synced before the log is replayed: at once, not one by one.
        values["recovery_init_sync_method"] = "syncfs"
    return values


def overridden(auto: Mapping[str, Setting]) -> tuple[str, ...]:
    """What ALTER SYSTEM has set although it is ha_manager's, or makes a promise of ha_manager's false."""
    ours = (*FIXED, *DYNAMIC, "wal_level", *LEAST, "hba_file", "ident_file", "data_directory", "port")
    found = [name for name in ours if name in auto]
    found += [name for name in ("fsync", "full_page_writes") if _value(auto, name) in _OFF]
    if _value(auto, "synchronous_commit") in (*_OFF, "local"):
        found.append("synchronous_commit")
    wanted_empty = (*_EMPTY_WANTED, "promote_trigger_file", "recovery_min_apply_delay")
    found += [name for name in wanted_empty if _value(auto, name) not in ("", "0", "none")]
    return tuple(found)


def refuse(admin: Mapping[str, Setting], auto: Mapping[str, Setting]) -> None:
    """Raises ConfigError for settings under which a promise of ours would be false."""
    counts = effective(admin, auto)
    for name in (*FIXED, *DYNAMIC, "wal_level", *LEAST, "hba_file", "ident_file", "data_directory", "port"):
        if name in auto:
            remedy = f"ALTER SYSTEM RESET {name}, or remove the line while Postgres is stopped"
            raise _wrong(auto[name], f"{name} overrides what ha_manager must set", remedy)
    if _value(counts, "synchronous_commit") in (*_OFF, "local"):
        setting = counts["synchronous_commit"]
        text = f"synchronous_commit = {setting.value}: commits would be acknowledged that the passive server does not hold"
        raise _wrong(setting, text, "leave it at on, or set it for single sessions whose data may be lost")
    for name, what in (
        ("fsync", "a power cut would destroy the database"),
        ("full_page_writes", "a power cut could tear pages"),
    ):
        if _value(counts, name) in _OFF:
            raise _wrong(counts[name], f"{name} is off: {what}", "set it to on")
    for name in (*_EMPTY_WANTED, "promote_trigger_file", "recovery_min_apply_delay"):
        if _value(counts, name) not in ("", "0", "none"):
            raise _wrong(counts[name], f"{name} decides when a standby stops replaying; ha_manager decides that", "remove it")


def floors_of(control: Control | None) -> Mapping[str, int]:
    """What a standby needs at least: what its active had, as its log told it."""
    return (control.floors if control is not None else None) or {}


def less(auto: Mapping[str, Setting], needed: Mapping[str, int]) -> dict[str, Setting]:
    """What ALTER SYSTEM, which wins over our file, gives a standby less of than its active had: it could not replay."""
    found = {name: auto[name] for name in needed if name in auto}
    return {name: one for name, one in found.items() if one.value.isdigit() and int(one.value) < needed[name]}


def effective(admin: Mapping[str, Setting], auto: Mapping[str, Setting]) -> dict[str, Setting]:
    """What counts: ALTER SYSTEM wins."""
    return dict(admin) | dict(auto)


def is_on(found: Mapping[str, Setting], name: str) -> bool:
    """A switch that is off by default."""
    return _value(found, name) not in ("", *_OFF)


def warnings(admin: Mapping[str, Setting], auto: Mapping[str, Setting]) -> list[str]:
    """What works, but not as one might expect."""
    counts = effective(admin, auto)
    said = []
    if _value(counts, "synchronous_commit") == "remote_write":
        said.append(
            _place(counts["synchronous_commit"], "synchronous_commit = remote_write: a power cut of both servers may lose")
        )
    if "synchronous_standby_names" in admin:
        said.append(
            _place(admin["synchronous_standby_names"], "synchronous_standby_names is ignored while high availability is on")
        )
    if not is_on(counts, "ssl"):
        said.append("ssl is off: what goes from the active's database to the passive's can be read on the network between")
    if _value(counts, "restart_after_crash") in _OFF:
        said.append(
            _place(counts["restart_after_crash"], "restart_after_crash is off: each crash of a backend costs a restart")
        )
    return said


def _place(setting: Setting, text: str) -> str:
    return f"{setting.file}:{setting.line}: {text}"


def _wrong(setting: Setting, text: str, remedy: str) -> ConfigError:
    return ConfigError(text, file=setting.file, line=setting.line, remedy=remedy)


def _value(found: Mapping[str, Setting], name: str) -> str:
    return found[name].value.strip().lower() if name in found else ""


def _number(found: Mapping[str, Setting], name: str, default: int) -> int:
    if name not in found:
        return default
    try:
        return int(found[name].value)
    except ValueError as wrong:
        raise _wrong(found[name], f"{name} must be a whole number, not {found[name].value!r}", "correct it") from wrong
