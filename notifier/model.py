"""The vocabulary of the notifier: releases, devices, what happens to them, what is to be done.

Promise: plain immutable values; the rules are in ``release``. Source: design §7; Trustwave §2.3, §2.6, §3.1.
Times are seconds of CLOCK_BOOTTIME, handed in as ``now``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from manager.holding import Release, Version


class Kind(StrEnum):
    """``device_type`` of devices.xml."""

    POLICY = "Management Server"
    SCANNING = "Scanning Server"


@dataclass(frozen=True)
class Device:
    name: str
    kind: Kind = Kind.SCANNING


class State(StrEnum):
    ABSENT = "absent"  # no connection
    STABLE = "stable"  # holds what it should, or nothing is asked of it
    WAITING = "waiting"  # for its turn
    PREPARING = "preparing"  # the differences travel into its staging area
    PREPARED = "prepared"  # holds all of it there, and waits for its turn to switch
    COMMITTING = "committing"  # told to switch
    FAILED = "failed"  # will be tried again at a known time
    FOREIGN = "foreign"  # obeys the notifier of a higher epoch


#: Trustwave §3.1, "Committing Status"
COMMITTING_STATUS = {
    State.WAITING: "Preparing to Commit",
    State.PREPARING: "Preparing to Commit",
    State.PREPARED: "Preparing to Commit",
    State.COMMITTING: "Committing Changes",
}


# --- events ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """Time has passed; sent when ``deadline()`` is reached."""


@dataclass(frozen=True)
class Devices:
    """devices.xml as it is from now on, in its order."""

    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Commit:
    """``release`` is for all devices, or ``only`` for these. ``token``: None if nobody waits for the outcome. ``scanning``: the
    digest of what scanning servers get of it, "" for all."""

    release: Release
    only: frozenset[str] | None = None
    token: int | None = None
    scanning: str = ""

    def of(self, kind: Kind) -> Release:
        return replace(self.release, digest=self.scanning) if self.scanning and kind is not Kind.POLICY else self.release


@dataclass(frozen=True)
class Await:
    """Somebody waits until these have what they are to have."""

    token: int
    names: frozenset[str]


@dataclass(frozen=True)
class Connected:
    """``holds``: its conf_ready; ``staged``: what lies whole in its staging area."""

    name: str
    holds: Release | None = None
    staged: Release | None = None


@dataclass(frozen=True)
class Lost:
    name: str
    because: str


@dataclass(frozen=True)
class Progress:
    """Something of what was asked of it has been done."""

    name: str


@dataclass(frozen=True)
class Prepared:
    name: str
    release: Release


@dataclass(frozen=True)
class Switched:
    name: str
    release: Release


@dataclass(frozen=True)
class Failed:
    """What was asked of it could not be done; the device is still there, and what it holds is as it was."""

    name: str
    because: str


@dataclass(frozen=True)
class Refused:
    """It obeys the notifier of a higher version than the one that was named to it."""

    name: str
    version: Version


@dataclass(frozen=True)
class Told:
    """It listens to this notifier, again (``Refused``) or as ever, and what it holds is not what was known of it: another one
    has been there."""

    name: str
    holds: Release | None = None
    staged: Release | None = None


@dataclass(frozen=True)
class Reign:
    """The same active goes on in the next epoch: what devices are to have is as it was, under this version."""

    version: Version


#: about one device
Said = Connected | Lost | Progress | Prepared | Switched | Failed | Refused | Told
Event = Tick | Devices | Commit | Await | Reign | Said


# --- effects --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Save:
    """Remember this, durably, before anything that follows in the list."""

    targets: Mapping[str, Release] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepare:
    """Bring what is missing of ``release`` into the device's staging area. Answer: Progress…, Prepared or Failed."""

    name: str
    release: Release


@dataclass(frozen=True)
class Switch:
    """Make what is staged its conf_ready, at one blow; of a device that holds this content: note the version. Answer: Switched
    or Failed."""

    name: str
    release: Release


@dataclass(frozen=True)
class Abandon:
    """End the connection: it hangs. Lost follows."""

    name: str
    because: str


@dataclass(frozen=True)
class Changed:
    """For log, status and history."""

    name: str
    before: State
    after: State
    because: str


@dataclass(frozen=True)
class Done:
    """Whoever asked with ``token`` can be answered: what did not work, in sentences."""

    token: int
    failures: tuple[str, ...]


Effect = Save | Prepare | Switch | Abandon | Changed | Done
