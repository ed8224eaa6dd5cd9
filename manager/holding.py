"""What a device holds of the configurations that notifiers send: the rule of the receiving side.

Promise: no input or output. Nothing of a lower version than the highest that was ever accepted is taken, so an old active's
notifier is ignored from the first word of the new one's on. What is staged is forgotten as soon as anything else may be written
there. ``switch`` says yes only to what was proven whole. Source: design §7; issue "Manager and notifier".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, order=True)
class Version:
    """Of two, the higher one counts. ``epoch`` and ``node``: of the active whose notifier made it; ``number``: its commits."""

    epoch: int
    node: str
    number: int

    def __str__(self) -> str:
        return f"{self.number} of epoch {self.epoch}/{self.node}"


@dataclass(frozen=True)
class Release:
    """One whole configuration. ``digest`` names its content: equal digests are equal trees."""

    version: Version
    digest: str


class Step(Enum):
    """What has to be done for a Switch."""

    RENAME = "rename"
    #: the content is in force already: only the version is noted
    NOTE = "note"


class Unprepared(Exception):
    """The staging area doesn't hold that release, whole."""


class Outdated(Exception):
    """Another notifier, of ``highest``, has been here."""

    def __init__(self, highest: Version) -> None:
        super().__init__(f"release {highest} has been accepted here")
        self.highest = highest


@dataclass
class Holding:
    """To be stored durably after each call and before it is answered: a device that restarts goes on from there."""

    highest: Version | None = None
    holds: Release | None = None
    staged: Release | None = None

    def admit(self, version: Version) -> None:
        """Before anything is taken from the notifier of ``version``. Raises Outdated."""
        if self.highest is not None and version < self.highest:
            raise Outdated(self.highest)
        self.highest = version

    def prepare(self, release: Release) -> None:
        """Its differences are about to be written into the staging area."""
        self.admit(release.version)
        self.staged = None

    def prepared(self, release: Release, found: str) -> None:
        """All has been written; ``found`` is the digest of what lies there. Raises Unprepared."""
        self.admit(release.version)
        if found != release.digest:
            raise Unprepared(f"what lies in the staging area is not release {release.version}")
        self.staged = release

    def step(self, release: Release) -> Step:
        """What a switch to ``release`` takes. Raises Outdated, Unprepared."""
        self.admit(release.version)
        if self.holds is not None and self.holds.digest == release.digest:
            return Step.NOTE
        if self.staged != release:
            raise Unprepared(f"release {release.version} was not prepared here")
        return Step.RENAME

    def switched(self, release: Release) -> None:
        """It has been done."""
        if self.staged == release:
            self.staged = None
        self.holds = release
