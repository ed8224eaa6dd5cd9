"""From conf_ready to where this device's modules read: ``/var/wasp/conf/<Module>/current``.

Promise: a module's folder is exchanged at one blow, and only when what is committed for it has changed since it was applied
here last: what an administrator changed in it stays until then. A module.xml that can't be used is not applied, is told, and
holds no other module up. What was interrupted is done by the next run. Source: Trustwave §2, §3.2; design §7.

A module is a folder with a module.xml below ``global`` or below this device's ID, whose files go before those of ``global``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manager.config import load_enabled
from manager.manifest import Entry, Kind, Manifest
from manager.modulefile import COMMANDER, HA, MODULE, role_enabled, set_role
from runtime.durable import read_json, sync_folder, write_json
from runtime.errors import ConfigError, HaError
from runtime.filesystem import exchange, sync
from runtime.modulexml import parse

log = logging.getLogger(__name__)

#: files that are flushed one by one
_FEW = 64
#: of the pair, in Commander/module.xml
ROLE = "HA"


@dataclass(frozen=True)
class Applied:
    """Kept in ``applied.json``: digest of what was applied last, by module; whether it turned high availability on."""

    modules: Mapping[str, str] = field(default_factory=dict)
    ha: bool = False
    #: of the whole configuration, when all of it had been applied
    whole: str = ""


@dataclass
class Outcome:
    changed: set[str] = field(default_factory=set)
    #: by module, in words
    wrong: dict[str, str] = field(default_factory=dict)
    #: the configuration wants high availability on this device
    ha: bool = False


class Applying:
    """``conf``: /var/wasp/conf; ``state``: the Manager's folder. One thread at a time."""

    def __init__(self, conf: Path, state: Path) -> None:
        self._conf, self._file = conf, state / "applied.json"

    def last(self) -> Applied:
        try:
            kept = read_json(self._file, {})
            return Applied(
                {str(name): str(digest) for name, digest in kept["modules"].items()}, kept["ha"] is True, kept["whole"]
            )
        except (KeyError, AttributeError, TypeError, HaError, OSError):
            return Applied()

    def remember(self, applied: Applied) -> None:
        """Raises OSError."""
        write_json(self._file, {"modules": dict(applied.modules), "ha": applied.ha, "whole": applied.whole})

    def run(self, conf_ready: Path, held: Manifest, device: str) -> Outcome:
        """Apply what of ``held``, which lies in ``conf_ready``, has changed. Raises OSError."""
        last, outcome = self.last(), Outcome()
        done = dict(last.modules)
        wanted = modules(held, device)
        for name, files in sorted(wanted.items()):
            digest = _digest(files)
            if done.get(name) == digest and (self._folder(name) / MODULE).exists():
                continue
            try:
                self._apply(name, conf_ready, files)
            except (HaError, OSError) as wrong:
                outcome.wrong[name] = f"{name} can't be applied: {wrong}"
                log.error("%s", outcome.wrong[name])
                continue
            done[name] = digest
            outcome.changed.add(name.casefold())
        for gone in done.keys() - wanted.keys():
            del done[gone]  # what is not committed any more stays as it is here, as one's own
        if outcome.changed or done != dict(last.modules):
            self.remember(Applied(done, last.ha, held.digest if not outcome.wrong else ""))
        outcome.ha = self._wants_ha(conf_ready, wanted)
        return outcome

    def room(self, held: Manifest, device: str) -> int:
        """Bytes that applying ``held`` takes at most, on its way: a module's old folder goes when the new one is whole."""
        done, most, more = self.last().modules, 0, 0
        for name, files in sorted(modules(held, device).items()):
            if done.get(name) == _digest(files):
                continue
            size = sum(entry.size for _, entry in files.values())
            most = max(most, more + size)
            more += size - _size(self._folder(name))
        return most

    def _apply(self, name: str, conf_ready: Path, files: Files) -> None:
        folder, module = self._folder(name), conf_ready / files[MODULE][0]
        if name.casefold() == COMMANDER:
            load_enabled(module)
        else:
            parse(module)
        fresh = folder.with_name(".current.new")
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            _clear(fresh)
            fresh.mkdir(mode=0o755)
            _lay(conf_ready, files, fresh)
            if name.casefold() == COMMANDER:
                self._commander(folder / MODULE, fresh / MODULE)
            _flush(fresh, len(files))
            if os.path.lexists(folder):
                exchange(fresh, folder)
            else:
                os.rename(fresh, folder)
            sync_folder(folder.parent)
        finally:
            _clear(fresh)
        log.info("module %s is applied", name)

    def _commander(self, present: Path, fresh: Path) -> None:
        """Whether high availability runs here the committed file does not decide: `ha start` turns the role on, when everything
        that it needs is in place, and `ha stop` off."""
        enabled = {role.text("name") for role in load_enabled(fresh)}
        here = False
        with contextlib.suppress(ConfigError):
            here = role_enabled(present, ROLE)
        if here and ROLE not in enabled:
            raise Stays(
                f"{ROLE} runs here and the committed file turns it off",
                file=present,
                remedy="`ha stop` on both servers first, then commit again",
            )
        if not here and ROLE in enabled:
            set_role(fresh, ROLE, False)

    def _wants_ha(self, conf_ready: Path, wanted: Mapping[str, Files]) -> bool:
        names = {module.casefold(): files[MODULE][0] for module, files in wanted.items()}
        if not {COMMANDER, HA} <= names.keys():
            return False
        try:
            section = parse(conf_ready / names[HA]).child("init/ha")
            on = section is not None and section.flag("enabled", False)
            return on and any(role.text("name") == ROLE for role in load_enabled(conf_ready / names[COMMANDER]))
        except ConfigError:
            return False

    def _folder(self, name: str) -> Path:
        """A folder that is there in another spelling is the one: the reference has HA, its own installation ``ha``."""
        with contextlib.suppress(OSError):
            for each in sorted(os.listdir(self._conf)):
                if each.casefold() == name.casefold():
                    return self._conf / each / "current"
        return self._conf / (HA if name.casefold() == HA else name) / "current"


class Stays(HaError):
    """Not applied on purpose."""

    def __init__(self, message: str, **place: Any) -> None:
        super().__init__(str(ConfigError(message, **place)))


#: name within the module → (name within the configuration, its entry)
Files = dict[str, tuple[str, Entry]]


def modules(held: Manifest, device: str) -> dict[str, Files]:
    """By name."""
    found: dict[str, Files] = {}
    for above in dict.fromkeys(("global", device)):
        for name, entry in held.entries.items():
            first, _, rest = name.partition("/")
            module, _, inner = rest.partition("/")
            if first == above and inner:
                found.setdefault(module, {})[inner] = (name, entry)
    return {module: files for module, files in found.items() if MODULE in files and files[MODULE][1].kind is Kind.FILE}


def _digest(files: Files) -> str:
    return Manifest({inner: entry for inner, (_, entry) in files.items()}).digest


def _size(folder: Path) -> int:
    """Of its files, in bytes."""
    found = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(f"{above}/{name}").st_size
    return found


def _lay(conf_ready: Path, files: Files, fresh: Path) -> None:
    for inner, (name, entry) in sorted(files.items()):
        target = fresh / inner
        match entry.kind:
            case Kind.FOLDER:
                target.mkdir(exist_ok=True)
                target.chmod(entry.mode)
            case Kind.LINK:
                os.symlink(entry.content, target)
            case Kind.FILE:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(conf_ready / name, target, follow_symlinks=False)
                target.chmod(entry.mode)


def _flush(folder: Path, count: int) -> None:
    """On the disk; one by one where they are few: a file system that a database writes to takes long to flush as a whole."""
    if count > _FEW:
        sync(folder)
        return
    for above, _, names in os.walk(folder):
        for name in names:
            if not os.path.islink(f"{above}/{name}"):
                fd = os.open(f"{above}/{name}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        sync_folder(above)


def _clear(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
