"""Where the Manager's files are.

Promise: every path of the Manager's own in one place, below one root, so that a test or a chroot can have its own set.
Source: docs/protocols.md, "Files".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .model import Mode


@dataclass(frozen=True)
class Paths:
    root: Path = Path("/")

    @property
    def configuration(self) -> Path:
        return self.root / "etc/Manager/manager.conf.xml"

    @property
    def active_module(self) -> Path:
        return self.root / "var/wasp/conf/Commander/current/module.xml"

    @property
    def passive_module(self) -> Path:
        return self.root / "etc/Manager/commander_passive_module.xml"

    @property
    def pair(self) -> Path:
        """Topology of the pair; for the Manager only where device_uname is answered."""
        return self.root / "var/wasp/conf/ha/current/module.xml"

    @property
    def passive_device(self) -> Path:
        """Exists while the Manager runs in passive mode."""
        return self.root / "etc/Manager/passive_device"

    @property
    def pid_file(self) -> Path:
        return self.root / "run/manager/manager.pid"

    @property
    def control(self) -> Path:
        return self.root / "run/manager/control"

    @property
    def held(self) -> Path:
        """What an operator stopped; below /run, so that a boot forgets it."""
        return self.root / "run/manager/held"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/manager"

    @property
    def conf(self) -> Path:
        """Where modules read: <Module>/current."""
        return self.root / "var/wasp/conf"

    @property
    def conf_ready(self) -> Path:
        """What was received last, whole."""
        return self.root / "var/wasp/conf_ready"

    @property
    def keys(self) -> Path:
        return self.root / "etc/ha_manager/keys"

    @property
    def receiver(self) -> Path:
        """What the receiver tells of itself."""
        return self.root / "run/manager/receiver.json"

    def kept(self, mode: Mode) -> Path:
        """The last good version of ``module``, for a start while that can't be used."""
        return self.root / f"var/lib/manager/{mode}_module.xml"

    def module(self, mode: Mode) -> Path:
        """The file that says which roles are enabled in ``mode``."""
        return self.passive_module if mode is Mode.PASSIVE else self.active_module

    def mode(self) -> Mode:
        """What the passive_device file says."""
        return Mode.PASSIVE if self.passive_device.exists() else Mode.ACTIVE
