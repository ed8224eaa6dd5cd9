"""A device's key is pinned: fetched over the network, compared by a person.

Promise: ``fetch`` trusts nothing; ``pin`` is called when somebody has compared the fingerprint. Where it is the other policy
server's, the two ha_managers know each other by it, too, unless another is pinned there. Source: design §7; Trustwave §3.2.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from notifier.devices import Listed, load
from notifier.line import PORT
from notifier.model import Kind
from notifier.paths import Paths
from runtime.control import Client
from runtime.errors import ConfigError, ControlError, PeerError
from runtime.keys import Keys, PublicKey
from runtime.pins import Pins
from runtime.session import fetch_key


class KnownKeys:
    """Of devices: those that were pinned (``directory``); without a pin this server's own, and that of its ha_manager's peer,
    which an operator has compared already."""

    def __init__(self, directory: Path, own: Keys) -> None:
        self._pins, self._own = Pins(directory), own

    def get(self, name: str) -> PublicKey | None:
        """Raises ConfigError."""
        if (pinned := self._pins.get(name)) is not None:
            return pinned
        return next((key for key in (self._own.show(), self._own.peer()) if key is not None and key.node == name), None)


class Enrolment:
    """Raises ConfigError if ``name`` is not in devices.xml."""

    def __init__(self, paths: Paths, name: str) -> None:
        self._paths, self._own = paths, Keys(paths.keys)
        listed = {each.device.name: each for each in load(paths.devices)}
        if name not in listed:
            known = ", ".join(sorted(listed)) or "no devices"
            raise ConfigError(f"{name} is not in the list", file=paths.devices, remedy=f"it has {known}")
        self._listed: Listed = listed[name]

    @property
    def is_own(self) -> bool:
        """It is this server."""
        return self._listed.device.name == self._own.show().node

    def fetch(self) -> PublicKey:
        """Raises PeerError, ConfigError."""
        if self.is_own:
            return self._own.show()
        name = self._listed.device.name
        try:
            key = fetch_key(self._listed.ip, port=self._listed.port or PORT)
        except PeerError as wrong:
            there = f"`manager-ctl status` on {name} says whether its Manager runs and listens; without a key it doesn't"
            raise PeerError(f"{wrong}; {there} (`manager-ctl keys make`)") from wrong
        if key.node != name:
            raise PeerError(
                f"{self._listed.ip} says that it is {key.node}, not {name}: correct devices.xml, or make its key anew"
            )
        return key

    def pin(self, key: PublicKey, *, replace: bool) -> list[str]:
        """What was done, in sentences. Raises ConfigError."""
        remedy = f"if it was given a new key on purpose: `notifier-ctl enroll --replace {key.node}`"
        Pins(self._paths.device_keys).pin(key, replace=replace, remedy=remedy)
        said = [f"pinned the key of {key.node}, fingerprint {key.fingerprint}"]
        if self._listed.device.kind is Kind.POLICY and not self.is_own:
            said += self._pair(key)
        with contextlib.suppress(ControlError), Client(self._paths.control, 5.0, name="the notifier") as notifier:
            notifier.request("reload")
        return said

    def _pair(self, key: PublicKey) -> list[str]:
        pinned = self._own.peer()
        if pinned is None:
            self._own.accept(key.line)
            return [f"{key.node} is the peer of this server's ha_manager"]
        if pinned == key:
            return []
        return [f"the peer of this server's ha_manager stays {pinned.node} (`ha keys accept --replace`)"]
