"""Those who write: one through the VIP, as its ARP entry says, and one on each host.

Promise: a write counts as acknowledged only when the answer could reach the one who asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .network import CLIENT

if TYPE_CHECKING:
    from .server import Server
    from .world import World

VIP_PERIOD, LOCAL_PERIOD = 0.03, 0.05
#: without an answer for so long the client asks again who has the address
ARP_TIMEOUT = 1.0


class VipClient:
    def __init__(self, world: World) -> None:
        self.world = world
        self._asked_at = 0.0
        world.engine.after(0.0, self._write)

    def _reaches(self, server: Server) -> bool:
        network = self.world.network
        if network.no_carrier[server.name]:
            return False
        return server.answers() and network.open("lan", CLIENT, server.name) and network.open("lan", server.name, CLIENT)

    def _write(self) -> None:
        world = self.world
        world.engine.after(VIP_PERIOD, self._write)
        now = world.engine.now
        holder = world.network.arp[CLIENT]
        if holder is None or now - max(world.checks.served_at, self._asked_at) > ARP_TIMEOUT:
            self._asked_at = now
            for server in world.servers.values():
                if self._reaches(server):
                    world.network.arp[CLIENT] = server.name
            holder = world.network.arp[CLIENT]
        if holder is None:
            return
        server = world.servers[holder]
        if server.gate and self._reaches(server):
            entry = world.next_entry()
            server.postgres.commit(entry, lambda position, waited: self._answered(server, entry))

    def _answered(self, server: Server, entry: int) -> None:
        if self._reaches(server):
            self.world.checks.acknowledged(server, entry, True)


class LocalClient:
    def __init__(self, world: World, server: Server) -> None:
        self.world = world
        self.server = server
        world.engine.after(0.01, self._write)

    def _write(self) -> None:
        world, server = self.world, self.server
        world.engine.after(LOCAL_PERIOD, self._write)
        if server.alive and not server.paused and server.postgres.serves:
            entry = world.next_entry()
            server.postgres.commit(entry, lambda position, waited: world.checks.acknowledged(server, entry, False))
