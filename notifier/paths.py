"""Where the notifier's files are.

Promise: every path of the notifier's own in one place, below one root, so that a test can have its own set. Source:
docs/protocols.md, "Files"; Trustwave §2.3 (base, stable, devices.xml).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    root: Path = Path("/")

    @property
    def base(self) -> Path:
        """Written by the policy server; on a new active, by ha_manager."""
        return self.root / "var/policyserver/configuration/base"

    @property
    def stable(self) -> Path:
        """What was committed last."""
        return self.root / "var/policyserver/configuration/stable"

    @property
    def devices(self) -> Path:
        return self.base / "global/notifier/devices.xml"

    @property
    def committed_devices(self) -> Path:
        return self.stable / "global/notifier/devices.xml"

    @property
    def conf_ready(self) -> Path:
        """What this server's own device holds, and its Manager's word on it."""
        return self.root / "var/wasp/conf_ready"

    @property
    def holding(self) -> Path:
        return self.root / "var/lib/manager/holding.json"

    @property
    def commander(self) -> Path:
        """The roles that run on this server while it is active."""
        return self.root / "var/wasp/conf/Commander/current/module.xml"

    @property
    def topology(self) -> Path:
        """The pair's module.xml: whether there is high availability."""
        return self.root / "var/wasp/conf/ha/current/module.xml"

    @property
    def device_keys(self) -> Path:
        """NAME.pub: the pinned keys of the devices."""
        return self.base / "global/notifier/keys"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/notifier"

    @property
    def keys(self) -> Path:
        """This node's own."""
        return self.root / "etc/ha_manager/keys"

    @property
    def role(self) -> Path:
        """heartbeat's."""
        return self.root / "run/heartbeat/role"

    @property
    def heartbeat(self) -> Path:
        return self.root / "run/heartbeat/control"

    @property
    def replication(self) -> Path:
        """ha_manager's word on the replication of the databases."""
        return self.root / "etc/ha_manager/ha_manager_status"

    @property
    def run(self) -> Path:
        return self.root / "run/notifier"

    @property
    def pid_file(self) -> Path:
        return self.run / "notifier.pid"

    @property
    def control(self) -> Path:
        return self.run / "control"
