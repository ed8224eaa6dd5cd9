"""One virtual router at work: its core, its sockets, its addresses, and the loop between them.

Promise: everything that has arrived is heard before a silence is judged. An interface that vanishes is a fault and not the end;
when it is back, so is the router. Nothing here waits. Log lines are in the reference's words. Source: design §8.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import time
from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Any, Protocol

from director.instances import instance_of, interface_index, own_address, peers_of
from director.lease import AnswerLease
from director.model import (
    Advertisement,
    Alarm,
    Announce,
    Became,
    Configured,
    Designated,
    Drop,
    DropAddresses,
    Event,
    Heard,
    Leave,
    Link,
    Say,
    SendAdvert,
    Start,
    State,
    TakeAddresses,
    Tick,
    Weighed,
)
from director.packets import Covers
from director.radio import Radio
from director.settings import OWNER, Config, VirtualIp
from director.vips import ANNOUNCE_AT, VirtualAddresses, lease_of
from director.virtualmac import VirtualMac
from director.vrrp import Router
from runtime.arp import Announcer
from runtime.errors import HaError
from runtime.linkwatch import carrier
from runtime.loop import Loop, Timer
from runtime.rtnetlink import AddressSocket
from runtime.vipwatch import VipWatch

log = logging.getLogger(__name__)

#: seconds between two looks at the links: the kernel may tell of a lost one a second late
LOOK = 0.25
_EARLY = 0.1
#: seconds after a take-over in which the master of before, or what a killed one left in its kernel, may still answer
_GRACE = 1.0


class Owner(Protocol):
    """The process that a participant belongs to."""

    def changed(self, family: int, state: State, previous: State, because: str) -> None:
        """After the addresses are taken, or dropped."""

    def alarm(self, name: str, text: str) -> None: ...
    def rules_changed(self) -> None:
        """The kernel's ruleset, by this process, once."""


class Participant:
    """This node's part in the virtual router of one family."""

    def __init__(self, config: Config, family: int, loop: Loop, kernel: AddressSocket, owner: Owner) -> None:
        self.family = family
        self._config = config
        self._loop = loop
        self._kernel = kernel
        self._owner = owner
        self._failed: tuple[str, ...] = ()
        self._unfit = False
        self._own = own_address(config, family, kernel.addresses())
        self.core = Router(instance_of(config, family, self._own or "0.0.0.0"), loop.now())
        self._radio = Radio(config.vrrp.interface, family, peers_of(config, family), Covers(config.vrrp.checksum))
        self._registered = -1
        self._index = 0
        vips = self._vips()
        self._mac = VirtualMac((vip.interface for vip in vips), config.vrrp.vrid, family) if config.vrrp.virtual_mac else None
        devices = self._mac.devices if self._mac else {}
        self.vips = VirtualAddresses(vips, lease_of(config.vrrp.advert), kernel, Announcer, self._trouble, devices)
        self._lease = AnswerLease(config.vrrp.advert, owner.rules_changed)
        self._watch = self._watch_for(vips)
        self._since = time.time()
        self._changes = 0
        self._dropped: Counter[str] = Counter()
        self._link = Link(True)
        self._weighed = Weighed()
        self._look_at = -inf
        self._announced_again_at = inf
        self._timer: Timer | None = None

    # --- life

    def start(self) -> None:
        self.vips.clear()
        self.vips.look()
        self._guard()
        self._watch.start()
        self._look(self._loop.now())
        self.feed(Start())

    def stop(self, because: str) -> None:
        """Let go, and say so: the successor is master before this call is long over."""
        self.feed(Leave(because))
        self.close()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._watch.close()
        self._unregister()
        self._radio.close()
        self.vips.close()
        self._lease.remove()
        if self._mac is not None:
            self._mac.remove()

    def configure(self, config: Config) -> None:
        """Another configuration that needs no other sockets (see ``instances.same_sockets``)."""
        before, self._config = self._config, config
        vips = self._vips()
        if before.of_router(self.family) != config.of_router(self.family):
            self.vips.change(vips, self._loop.now())
            self._watch.close()
            self._watch = self._watch_for(vips)
            self._watch.start()
        self.vips.lease, self._lease.advert = lease_of(config.vrrp.advert), config.vrrp.advert
        self._guard()
        self._own = own_address(config, self.family, self._kernel.addresses())
        self.feed(Configured(instance_of(config, self.family, self._own or "0.0.0.0")))
        self._look(self._loop.now())

    # --- what happens

    def feed(self, event: Event) -> None:
        for effect in self.core.handle(event, self._loop.now()):
            self._carry_out(effect)
        self._arm()

    def designate(self, successor: bool) -> None:
        if self.core.designated is not successor:
            self.feed(Designated(successor))

    def ports_failed(self, failed: Sequence[str]) -> None:
        self._failed = tuple(failed)
        self._weigh()

    def unfit(self, on: bool) -> None:
        self._unfit = on
        self._weigh()

    def links_changed(self) -> None:
        """Something happened to an interface of this machine."""
        if self.core.state is State.STOPPED:
            return
        now = self._loop.now()
        self._look(now)
        if self.core.state is State.MASTER:
            self.vips.link_changed(now)
        self._arm()

    def addresses_removed(self) -> None:
        """Somebody removed an address of this machine; what has arrived until then may say that it was right."""
        self._listen_up()
        self.vips.addresses_removed(self._loop.now())
        self._arm()

    def _arrived(self, mask: int) -> None:
        self._listen_up()
        self._keep_house(self._loop.now())

    def _listen_up(self) -> None:
        for advert in self._radio.receive():
            self.feed(Heard(advert))

    def _turn(self) -> None:
        """A deadline: of the core, of the addresses, or to look at the links."""
        self._timer = None
        self._listen_up()
        now = self._loop.now()
        if now >= (self.core.deadline() or inf):
            self.feed(Tick())
        self._keep_house(now)
        self._arm()

    def _keep_house(self, now: float) -> None:
        """What is due soon is done along with what woke this process: waking up costs more than most of it."""
        self.vips.tick(now, early=_EARLY)
        if now >= self._announced_again_at:
            self._say_announced()
        self._watch.turn(in_contact=False, serving_too=False, now=now)
        if now + _EARLY >= self._look_at:
            self._look(now)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.core.state is not State.STOPPED:
            due = min(self.core.deadline() or inf, self.vips.due, self._look_at, self._watch.due)
            self._timer = self._loop.call_at(due, self._turn)

    # --- what is to be done

    def _carry_out(self, effect: object) -> None:
        now = self._loop.now()
        match effect:
            case SendAdvert(priority):
                if priority:
                    self._lease.renew(now)
                self._advertise(priority)
            case TakeAddresses():
                self._lease.renew(now)
                self._raise_mac(True)
                self.vips.take(now)
                self._guard()
            case DropAddresses():
                self.vips.drop()
                self._raise_mac(False)
            case Announce():
                self.vips.announce(now)
            case Became(state, previous, because):
                self._became(state, previous, because)
            case Say(text):
                log.info("%s %s", self._name, text)
            case Alarm(name, text):
                self._trouble(name, text)
            case Drop(reason):
                self._dropped[reason] += 1

    def _guard(self) -> None:
        """The addresses that this node holds by a lease; not those that are its own (priority 255)."""
        if self.vips.leased != self._lease.addresses:
            self._lease.guard(self.vips.leased)
            if self.vips.held:
                self._lease.renew(self._loop.now())

    def _raise_mac(self, on: bool) -> None:
        if self._mac is not None:
            self._mac.up(on)

    def _advertise(self, priority: int) -> None:
        one = self.core.instance
        advert = Advertisement(one.own, one.version, one.vrid, priority, one.advert, one.addresses, one.password or None)
        try:
            self._radio.send(advert)
        except HaError as error:
            if self._link.up:
                self._trouble("advert", str(error))
            self._own = ""  # to be looked up again
        else:
            self._trouble("advert", "")

    def _became(self, state: State, previous: State, because: str) -> None:
        self._since = time.time()
        self._changes += 1
        if state is State.MASTER:
            log.info("%s Transition to MASTER STATE: %s", self._name, because)
            log.info("%s Entering MASTER STATE", self._name)
            log.info("%s setting protocol VIPs.", self._name)
            self._say_announced()
            self._announced_again_at = self._loop.now() + ANNOUNCE_AT[-1]
        else:
            self._announced_again_at = inf
            log.info("%s Entering %s STATE: %s", self._name, state.value.upper(), because)
            if previous is State.MASTER:
                log.info("%s removing protocol VIPs.", self._name)
        self._owner.changed(self.family, state, previous, because)
        if State.MASTER in (state, previous):
            verb = "Adding" if state is State.MASTER else "Removing"
            for vip in self.vips.vips:
                log.info("TX %s IPV%d Address %s", verb, vip.family, vip.address)

    def _say_announced(self) -> None:
        """At the first time, and at the last."""
        self._announced_again_at = inf
        for vip in self.vips.vips:
            log.info("%s Sending gratuitous ARPs on %s for %s", self._name, vip.interface, vip.address)

    # --- links, addresses, ports

    def _look(self, now: float) -> None:
        """At the interfaces: whether this node can serve at all, and what lowers its priority."""
        self._look_at = now + LOOK
        link = self._inspect()
        if link != self._link:
            self._link = link
            log.log(logging.INFO if link.up else logging.WARNING, "%s %s", self._name, link.because)
            self.feed(link)
        self._weigh()
        self._tell_claims()

    def _inspect(self) -> Link:
        interfaces = dict.fromkeys((self._config.vrrp.interface, *(vip.interface for vip in self._vips())))
        for interface in interfaces:
            if not carrier(interface):
                return Link(False, f"interface {interface} has no link, or isn't there")
        try:
            self._listen()
            if not self._own:
                self._own = own_address(self._config, self.family, self._kernel.addresses())
        except (HaError, OSError) as error:
            return Link(False, str(error))
        if not self._own:
            return Link(False, f"interface {self._config.vrrp.interface} has no IPv{self.family} address to advertise from")
        if self._own != self.core.instance.own:
            self.feed(Configured(instance_of(self._config, self.family, self._own)))
        return Link(True, f"{', '.join(interfaces)} can be used")

    def _listen(self) -> None:
        """Open the sockets, anew if the interface is another one than before."""
        index = interface_index(self._config.vrrp.interface)
        if self._radio.opened and index == self._index:
            return
        self._unregister()
        self._radio.open()
        if self._mac is not None:
            self._mac.make()
        self._index, self._own = index, ""
        self._registered = self._radio.fileno()
        self._loop.selector.register(self._registered, selectors.EVENT_READ, self._arrived)

    def _unregister(self) -> None:
        if self._registered >= 0:
            with contextlib.suppress(KeyError, ValueError):
                self._loop.selector.unregister(self._registered)
            self._registered = -1

    def _weigh(self) -> None:
        lowered, barred = 0, ""
        for track in self._config.tracks:
            if not carrier(track.interface):
                lowered += track.weight
                if track.weight == 0:
                    barred = f"tracked interface {track.interface} has no link, or isn't there"
        if self._failed:
            lowered += self._config.vrrp.port_weight
        if self._unfit:
            lowered += OWNER  # whatever there is: 1 is left
        weighed = Weighed(lowered, barred)
        if weighed != self._weighed:
            self._weighed = weighed
            self.feed(weighed)

    # --- who claims the addresses besides

    def _watch_for(self, vips: Sequence[VirtualIp]) -> VipWatch:
        on = self._mac.devices if self._mac else {}
        devices = [(vip.address, on.get(vip.interface, vip.interface)) for vip in vips]
        return VipWatch(devices, _Holding(self), self._loop.selector, self._claimed, self._loop.now)

    def _claimed(self, name: str, text: str) -> None:
        # A claim is told at the next look only: a master that gives way in this moment may hear its successor's first.
        if not name.startswith("claimed-"):
            self._trouble(name, text)

    def _tell_claims(self) -> None:
        claims = self._watch.claims()
        for vip in self.vips.vips:
            their = claims.get(vip.address)
            said = f"{their} claims the virtual address {vip.address}, which this node holds" if their else ""
            self._trouble(f"claimed-{vip.address}", said)

    @property
    def alone_long_enough(self) -> bool:
        """Whoever claims the addresses now is a rival."""
        core = self.core
        return core.state is State.MASTER and self._loop.now() - core.since > self.vips.lease + _GRACE

    # --- words and numbers

    @property
    def _name(self) -> str:
        return f"VRRP_Instance({self.core.instance.name})"

    def _trouble(self, name: str, text: str) -> None:
        self._owner.alarm(f"{name} IPv{self.family}", text and f"{self._name} {text}")

    def _vips(self) -> tuple[VirtualIp, ...]:
        return self._config.of_router(self.family)

    def status(self) -> dict[str, Any]:
        core, one = self.core, self.core.instance
        return {
            "family": self.family,
            "vrid": one.vrid,
            "version": one.version,
            "interface": self._config.vrrp.interface,
            "state": core.state.value,
            "since": self._since,
            "because": core.because,
            "changes": self._changes,
            "priority": one.priority,
            "effective_priority": core.priority,
            "preempt": one.preempt,
            "advert": one.advert,
            "own": self._own,
            "peers": list(peers_of(self._config, self.family)),
            "master": core.master,
            "master_priority": core.master_priority,
            "designated": core.designated,
            "lease": self.vips.lease if self._lease.problem else min(self._lease.seconds, self.vips.lease),
            "virtual_ips": [
                {"ip": vip.address, "prefix": vip.prefix, "interface": vip.interface, "held": self.vips.holds(vip)}
                for vip in self.vips.vips
            ],
            "counters": {
                "sent": self._radio.sent,
                "received": self._radio.received,
                "dropped": dict(self._radio.dropped + self._dropped),
            },
        }


class _Holding:
    """For ``VipWatch``."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant

    @property
    def held(self) -> bool:
        return self._participant.alone_long_enough

    def announce(self, now: float) -> None:
        self._participant.vips.announce(now)
