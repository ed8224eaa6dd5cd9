"""What a lab leaves on the disk of this machine while it is up: its directory, its state, its lock.

Promise: everything ``down`` needs is here, written atomically before or right after it becomes true, so that a lab can be
taken down by another process, also after its maker crashed. A process is remembered with its start time: a reused process id
is never mistaken for it. Source: design §2.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import HaError

from .topology import Flow, Topology


class LabError(HaError):
    """The lab can't do what was asked; the message says what to do instead."""


class NoSuchLab(LabError):
    """There is nothing of that name on the disk."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no lab {name!r}: python -m lab --name {name} up")


def base() -> Path:
    """Where labs and cached layers live: a disk, never a tmpfs, because a machine's fsync must mean something."""
    return Path(os.environ.get("HA_LAB_DIR", "/var/tmp/ha-lab"))


@dataclass(frozen=True)
class Process:
    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises LabError when there is no such process (any more)."""
        started = _start_time(pid)
        if started is None:
            raise LabError(f"process {pid} ended before it could be looked at")
        return cls(pid, started)

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.started

    def end(self, signal: int, limit: float) -> bool:
        """Send the signal if it lives; True once it is gone, False when it isn't after ``limit`` seconds."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive:
                return True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal)
            return self._gone(time.monotonic() + limit)
        finally:
            os.close(handle)

    def _gone(self, end: float) -> bool:
        delay = 0.001
        while self.alive:
            if time.monotonic() > end:
                return False
            time.sleep(delay)
            delay = min(0.02, delay * 1.5)
        return True


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@dataclass
class Faults:
    """What is wrong with the cables, by switch port."""

    #: (from, to) → percent of the frames that are lost; "" is any port
    lost: dict[Flow, float] = field(default_factory=dict)
    unplugged: set[str] = field(default_factory=set)
    #: ports of machines without power
    dark: set[str] = field(default_factory=set)

    def heal(self, flows: Iterable[Flow], ports: Iterable[str] = ()) -> None:
        """Forget these flows, and whatever is wrong with these ports."""
        mended = set(ports)
        gone = [flow for flow in self.lost if mended & set(flow)]
        for flow in [*flows, *gone]:
            self.lost.pop(flow, None)
        self.unplugged -= mended

    def in_words(self) -> dict[str, str]:
        """Link → what is wrong with it, for people."""
        words = {_link(port): ["unplugged"] for port in sorted(self.unplugged)}
        for (sender, receiver), percent in sorted(self.lost.items()):
            what = "cut" if percent == 100 else f"loses {percent:g} %"
            if sender and receiver:
                words[f"{_link(sender)} -> {_link(receiver)}"] = [what]
            elif sender:
                words.setdefault(_link(sender), []).append(f"{what} of what it sends" if percent < 100 else "cut, out")
            else:
                words.setdefault(_link(receiver), []).append(f"{what} of what it is sent" if percent < 100 else "cut, in")
        return {link: ", ".join(faults) for link, faults in words.items()}

    def as_json(self) -> dict[str, Any]:
        lost = [[*flow, percent] for flow, percent in sorted(self.lost.items())]
        return {"lost": lost, "unplugged": sorted(self.unplugged), "dark": sorted(self.dark)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Faults:
        lost = {(sender, receiver): percent for sender, receiver, percent in raw["lost"]}
        return cls(lost, set(raw["unplugged"]), set(raw["dark"]))


def _link(port: str) -> str:
    return port.replace(".", ":")


@dataclass
class State:
    topology: Topology
    layer: str = ""
    anchor: Process | None = None
    watcher: Process | None = None
    machines: dict[str, Process] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"topology": self.topology.as_json(), "faults": self.faults.as_json()}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> State:
        def process(one: dict[str, int] | None) -> Process | None:
            return Process(**one) if one else None

        return cls(
            topology=Topology.from_json(raw["topology"]),
            layer=raw["layer"],
            anchor=process(raw["anchor"]),
            watcher=process(raw["watcher"]),
            machines={name: Process(**one) for name, one in raw["machines"].items()},
            faults=Faults.from_json(raw["faults"]),
        )


class Store:
    """The directory of one lab."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = base() / "labs" / name
        self._file = self.path / "state.json"

    @property
    def merged(self) -> Path:
        return self.path / "lower" / "merged"

    def disk(self, machine: str) -> Path:
        return self.path / "machines" / machine

    def console(self, machine: str) -> Path:
        return self.path / "machines" / f"{machine}.console"

    def load(self) -> State | None:
        """None when there is no such lab on the disk."""
        try:
            return State.from_json(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as wrong:
            raise LabError(f"{self._file} can't be read ({wrong}): python -m lab --name {self.name} down") from wrong

    def save(self, state: State) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(state.as_json(), indent=1))
        new.rename(self._file)

    @contextlib.contextmanager
    def lock(self, *, create: bool = False) -> Iterator[None]:
        """One change at a time: an flock on the directory itself, so that nothing of it outlives the directory."""
        while True:
            if create:
                self.path.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise NoSuchLab(self.name) from None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if not self._is(handle):
                    continue  # taken down while we waited
                yield
                return
            finally:
                os.close(handle)

    def _is(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(handle))
        except FileNotFoundError:
            return False

    def erase(self, machine: str) -> None:
        """Throw the machine's disk away; it must be off."""
        shutil.rmtree(self.disk(machine), ignore_errors=False)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=False)


def labs() -> list[str]:
    """Names of the labs on the disk, up or left over."""
    try:
        return sorted(one.name for one in (base() / "labs").iterdir() if one.is_dir())
    except FileNotFoundError:
        return []
