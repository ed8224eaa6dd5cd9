"""The faults: what each does, and how it ends.

Promise: a schedule is a tuple of ``Fault``; each can be taken out, shortened or moved without touching the others, so that
a failing schedule can be shrunk. ``length`` is in seconds; when it is over the fault is healed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from heartbeat.model import SERVING, Activate, Leave, Replication, Standby, Suspend

from .disk import SLOWEST
from .network import LINKS, other
from .server import HANG_LIMIT

if TYPE_CHECKING:
    from .ha_manager import HaManager
    from .heartbeat import Heartbeat
    from .server import Server
    from .world import World

Heal = Callable[[], None]


class Fault(NamedTuple):
    at: float
    kind: str
    node: str
    length: float = 0.0
    arg: str = ""
    #: aimed: ``at`` counts from the first effect that holds all of these words, the name of the server being the first
    when: str = ""

    def __str__(self) -> str:
        aimed = f", {self.when!r}" if self.when else ""
        return f"Fault({self.at:g}, {self.kind!r}, {self.node!r}, {self.length:g}, {self.arg!r}{aimed})"


Schedule = tuple[Fault, ...]


def begin(world: World, fault: Fault) -> None:
    """Make ``fault`` happen, and heal it after its length."""
    world.note_fault(fault)
    world.lasts_until(world.engine.now + fault.length)
    heal = KINDS[fault.kind](world, world.servers[fault.node], fault)
    world.engine.after(fault.length, _heal, world, fault, heal)


def _heal(world: World, fault: Fault, heal: Heal) -> None:
    world.note_fault(fault, over=True)
    heal()


# --- machines and processes -----------------------------------------------------------------------------------------------


def _power(world: World, server: Server, fault: Fault) -> Heal:
    server.power_off()
    return server.power_on


def _pause(world: World, server: Server, fault: Fault) -> Heal:
    if not server.alive:
        return lambda: None
    life = server.pause()
    return lambda: server.resume(life)


def _process(server: Server, kind: str) -> Heartbeat | HaManager:
    return server.heartbeat if kind.startswith("heartbeat") else server.manager


def _kill(world: World, server: Server, fault: Fault) -> Heal:
    """Killed; with a length it also stays down for so long (its Manager is gone too)."""
    process = _process(server, fault.kind)
    key = (server.name, type(process).__name__)
    world.held_down[key] += fault.length > 0
    if process is server.heartbeat:
        server.heartbeat.kill()
    elif server.manager.running:
        server.manager.kill()
        server.restart(server.manager)

    def heal() -> None:
        if fault.length > 0:
            world.held_down[key] -= 1
            if not world.held_down[key] and server.alive:
                process.start()

    return heal


def _heartbeat_hang(world: World, server: Server, fault: Fault) -> Heal:
    heartbeat = server.heartbeat
    life = heartbeat.stop()

    def watched() -> None:
        if heartbeat.life == life and heartbeat.stopped:
            heartbeat.kill()

    if fault.arg != "unwatched":
        world.engine.after(HANG_LIMIT, watched)
    return lambda: heartbeat.go_on(life)


def _ha_manager_hang(world: World, server: Server, fault: Fault) -> Heal:
    manager = server.manager
    life = manager.life
    manager.hung += manager.running

    def watched() -> None:
        if manager.life == life and manager.hung:
            manager.kill()
            server.restart(manager)

    def heal() -> None:
        if manager.life == life and manager.hung:
            manager.hung -= 1

    if fault.arg != "unwatched":
        world.engine.after(HANG_LIMIT, watched)
    return heal


def _postgres(world: World, server: Server, fault: Fault) -> Heal:
    postgres = server.postgres
    if fault.kind == "postgres-kill":
        postgres.hung = 0
        postgres.kill()
        return lambda: None
    if fault.kind == "postgres-broken":
        postgres.broken += 1
        postgres.kill()

        def mended() -> None:
            postgres.broken -= 1

        return mended
    postgres.hung += 1

    def goes_on() -> None:
        if postgres.hung:
            postgres.hung -= 1
            if not postgres.hung:
                postgres.go_on()

    return goes_on


def _crash(world: World, server: Server, fault: Fault) -> Heal:
    """A crash between two effects: ``arg`` is "<how many lists of heavy effects>:<kill|power>"."""
    count, how = fault.arg.split(":")
    server.heartbeat.crash = (int(count), how)

    def heal() -> None:
        server.heartbeat.crash = None
        server.power_on()

    return heal


# --- networks -------------------------------------------------------------------------------------------------------------


def _cut(world: World, server: Server, fault: Fault) -> Heal:
    """``arg``: "<lan|ic|*|hb|repl|session>:<out|in|both>", seen from the node towards its peer."""
    what, direction = fault.arg.split(":")
    node, peer = server.name, other(server.name)
    pairs = {"out": [(node, peer)], "in": [(peer, node)], "both": [(node, peer), (peer, node)]}[direction]
    keys = [(link, *pair) for link in (LINKS if what == "*" else (what,)) for pair in pairs]
    return _cut_keys(world, keys)


def _cut_keys(world: World, keys: list[tuple[str, str, str]]) -> Heal:
    cuts = world.network.cuts
    cuts.update(keys)
    return lambda: cuts.subtract(keys)


def _ping(world: World, server: Server, fault: Fault) -> Heal:
    """``arg``: which ping node (a group's member), "" for all; with "both" after it, it is off for both servers."""
    words = fault.arg.split()
    chosen = [word for word in words if word != "both"] or [one for members in world.ping_nodes.values() for one in members]
    if "both" not in words:
        return _cut_keys(world, [key for one in chosen for key in (("lan", server.name, one), ("lan", one, server.name))])
    down = world.network.down
    down.update(chosen)
    return lambda: down.subtract(chosen)


def _port(world: World, server: Server, fault: Fault) -> Heal:
    """The server's port on the LAN is dead; with "carrier" its kernel sees that."""
    ports = world.network.ports
    ports[server.name] += 1
    up = _carrier(world, server, fault) if fault.arg == "carrier" else None

    def heal() -> None:
        ports[server.name] -= 1
        if up is not None:
            up()

    return heal


def _carrier(world: World, server: Server, fault: Fault) -> Heal:
    """The interface of the virtual IP has no link; what else is on the LAN goes on (it has an interface of its own)."""
    down = world.network.no_carrier
    down[server.name] += 1
    server.later(0.002, server.heartbeat.tell_link)

    def heal() -> None:
        down[server.name] -= 1
        server.later(0.002, server.heartbeat.tell_link)
        if not down[server.name] and server.vip and world.setting.arp_check:
            server.later(0.003, server.announce)

    return heal


def _loss(world: World, server: Server, fault: Fault) -> Heal:
    network = world.network
    for link in LINKS:
        network.loss[link, server.name, other(server.name)] = float(fault.arg)

    def heal() -> None:
        for link in LINKS:
            network.loss.pop((link, server.name, other(server.name)), None)

    return heal


def _delay(world: World, server: Server, fault: Fault) -> Heal:
    """Datagrams to the peer take up to ``arg`` seconds longer, and overtake each other."""
    network = world.network
    keys = [(link, server.name, other(server.name)) for link in LINKS]
    for key in keys:
        network.delay[key] = float(fault.arg)

    def heal() -> None:
        for key in keys:
            network.delay.pop(key, None)

    return heal


def _double(world: World, server: Server, fault: Fault) -> Heal:
    """Every datagram to the peer arrives once more, up to ``arg`` seconds later."""
    network = world.network
    keys = [(link, server.name, other(server.name)) for link in LINKS]
    for key in keys:
        network.doubled[key] = float(fault.arg)

    def heal() -> None:
        for key in keys:
            network.doubled.pop(key, None)

    return heal


# --- disks and databases --------------------------------------------------------------------------------------------------


def _slow(world: World, server: Server, fault: Fault) -> Heal:
    server.disk.slow = float(fault.arg)
    world.lasts_until(world.engine.now + fault.length + SLOWEST * float(fault.arg))  # a write that has begun goes on

    def heal() -> None:
        server.disk.slow = 0.0

    return heal


def _checkpointer(world: World, server: Server, fault: Fault) -> Heal:
    server.postgres.checkpointer_slow = float(fault.arg)

    def heal() -> None:
        server.postgres.checkpointer_slow = 0.0

    return heal


def _full(world: World, server: Server, fault: Fault) -> Heal:
    server.disk.full += 1

    def heal() -> None:
        server.disk.full -= 1

    return heal


# --- people ---------------------------------------------------------------------------------------------------------------


def _failover(world: World, server: Server, fault: Fault) -> Heal:
    server.later(0.0, server.heartbeat.feed, Standby("an operator"))
    return lambda: None


def _suspend(world: World, server: Server, fault: Fault) -> Heal:
    asked = False

    def ask() -> None:
        nonlocal asked
        asked = True
        server.heartbeat.feed(Suspend("an operator", True))

    server.later(0.0, ask)

    def resume() -> None:
        """An operator who sees that it is still suspended somewhere says it again."""
        cores = [one.heartbeat.core for one in world.servers.values()]
        for one in world.servers.values():
            core = one.heartbeat.core
            if one.heartbeat.works and core is not None and core.disk.suspended:
                one.later(0.0, one.heartbeat.feed, Suspend("an operator", False))
        unheard = server.paused or server.heartbeat.stopped or (server.alive and not asked)
        if unheard or any(core is None or core.saving or core.disk.suspended for core in cores):
            world.engine.after(1.0, resume)

    return resume


def _leave(world: World, server: Server, fault: Fault) -> Heal:
    heartbeat = server.heartbeat
    asked = False

    def ask() -> None:
        nonlocal asked
        asked = True
        heartbeat.feed(Leave("an operator", fault.arg))

    server.later(0.0, ask)

    def comes_back() -> None:
        leaving = heartbeat.core is not None and heartbeat.core.leaving in ("handover", "off")
        if server.paused or heartbeat.stopped or leaving or (server.alive and not asked):
            world.engine.after(0.5, comes_back)
            return
        heartbeat.left = False
        server.later(0.0, heartbeat.start)

    return comes_back


def _activate(world: World, server: Server, fault: Fault) -> Heal:
    """An operator who takes the loss of what the other server holds beyond this one; says it again while that is refused."""
    asked = 0

    def ask() -> None:
        nonlocal asked
        core = server.heartbeat.core
        asked += 1
        if server.heartbeat.works and not server.paused and core is not None and core.phase not in SERVING:
            server.heartbeat.feed(Activate("an operator", force=True))
        elif asked < 20:
            world.engine.after(0.2, ask)

    server.later(0.0, ask)
    return lambda: None


def _mode(world: World, server: Server, fault: Fault) -> Heal:
    """module.xml of this server is changed, and read again: ``arg`` is on or off (synchronous), silence or release (solo)."""
    site = world.sites[server.name]
    changed = {"solo": fault.arg} if fault.arg in ("silence", "release") else {"synchronous": fault.arg == "on"}
    site = world.sites[server.name] = replace(site, **changed)  # type: ignore[arg-type]
    world.off_on_both = world.off_on_both or not any(each.synchronous for each in world.sites.values())
    new = Replication(site.synchronous, site.solo, site.maximum_lag)
    server.later(0.0, server.heartbeat.feed, new)
    return lambda: None


# --- what stands beside the pair (``backing``) -----------------------------------------------------------------------------


def _stranger(world: World, server: Server, fault: Fault) -> Heal:
    world.backing.strangers += 1

    def heal() -> None:
        world.backing.strangers -= 1

    return heal


def _unfenced(world: World, server: Server, fault: Fault) -> Heal:
    """The device that powers this server does what it is told no more."""
    world.backing.unfenced[server.name] += 1

    def heal() -> None:
        world.backing.unfenced[server.name] -= 1

    return heal


def _witness(world: World, server: Server, fault: Fault) -> Heal:
    """``arg``: the number of a witness that nobody reaches."""
    world.backing.unreached[int(fault.arg)] += 1

    def heal() -> None:
        world.backing.unreached[int(fault.arg)] -= 1

    return heal


KINDS: dict[str, Callable[[World, Server, Fault], Heal]] = {
    "power": _power, "pause": _pause, "heartbeat-kill": _kill, "ha_manager-kill": _kill, "heartbeat-hang": _heartbeat_hang,
    "ha_manager-hang": _ha_manager_hang, "postgres-kill": _postgres, "postgres-hang": _postgres, "postgres-broken": _postgres,
    "crash": _crash, "cut": _cut, "ping": _ping, "port": _port, "carrier": _carrier, "loss": _loss, "delay": _delay,
    "double": _double, "slow": _slow, "checkpointer": _checkpointer, "full": _full, "failover": _failover,
    "suspend": _suspend, "leave": _leave,
    "activate": _activate, "mode": _mode, "stranger": _stranger, "unfenced": _unfenced, "witness": _witness,
}  # fmt: skip
