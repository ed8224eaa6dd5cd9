"""Where the two halves of the director meet: who holds the virtual addresses (VRRP), and what is done with the clients.

Promise: neither half imports the other. Everything here is called from the one loop, and nothing in it blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from director.settings import Config
from runtime.control import Handler


@dataclass(frozen=True)
class VrrpView:
    """What the other half may want to know, and tell the other members."""

    master: bool
    #: in force: lowered by what is tracked; 0: this node is never master
    priority: int
    vrid: int
    #: "": none is known
    master_ip: str


class Hooks(Protocol):
    """What the clients' half tells the VRRP half."""

    def fitness(self, failed: Sequence[str]) -> None:
        """The redirect ports of this node that fail, at each change; lowers its priority by ``port_weight``."""

    def unfit(self, on: bool) -> None:
        """Nothing reaches this node, or it can't share out clients: any other one is to direct. Alone, it goes on."""

    def successor(self, designated: bool) -> None:
        """Whether the director's latest fresh heartbeat names this node as its successor: if it stops cleanly, this node
        takes over at once.
        """

    def vrrp(self) -> VrrpView: ...

    def rule_changes(self) -> int:
        """How often this process has changed the kernel's ruleset on behalf of the other half."""

    def alarm(self, name: str, text: str) -> None:
        """Logged once per change, shown in the status; "" clears what was told under the name."""


class Cluster(Protocol):
    """What the VRRP half asks of the clients' half."""

    def start(self) -> None:
        """Rules loaded, sockets open. Raises HaError."""

    def role(self, master: bool, because: str) -> None:
        """This node is the director from now on (its virtual addresses answer here already), or isn't any more."""

    def apply(self, config: Config) -> None:
        """The difference to what was configured before; no connection is dropped."""

    def status(self) -> dict[str, Any]: ...

    def handlers(self) -> Mapping[str, Handler]:
        """Further requests of the control socket."""

    def stop(self) -> None:
        """Remove what was loaded. After ``role(False)``, a moment later: packets on their way still find their node."""


class NoCluster:
    """Virtual addresses only."""

    def start(self) -> None: ...
    def role(self, master: bool, because: str) -> None: ...
    def apply(self, config: Config) -> None: ...
    def status(self) -> dict[str, Any]:
        return {}

    def handlers(self) -> Mapping[str, Handler]:
        return {}

    def stop(self) -> None: ...
