"""What heartbeat has besides heartbeats and pings, wired together: evidence, the ARP check, fence agents, the watchdog.

Promise: every call returns at once; what comes of it reaches the core as events, in the loop's own turn. Source: design §4
rules 1, 2 and 5.
"""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Protocol

from heartbeat.config import Config
from heartbeat.evidence import Evidence
from heartbeat.fencing import Fencer
from heartbeat.model import ArpUnusable, AskGrant, Event, Fenced, Granted
from heartbeat.ping import Pinger
from heartbeat.vip_ping import Announce, VipPing, ping_node
from heartbeat.watchdog import Watchdog
from runtime.address import Assigned, NetworkError, mac
from runtime.arpwatch import ArpWatch

log = logging.getLogger(__name__)

#: seconds between two checks of the fence agents; a first one comes soon after the start
CHECK_PERIOD, FIRST_CHECK = 600.0, 5.0
_MAC_PERIOD = 1.0


class Radio(Protocol):
    """``radio.Radio``: what heartbeats tell about the two hosts."""

    own_macs: tuple[bytes, ...]
    peers_macs: frozenset[bytes]

    def peers(self) -> dict[str, tuple[str, ...]]: ...


class Lookout:
    """``feed``: takes an event to the core; ``trouble(name, text)``: raises, or with "" clears, an alarm of the edge."""

    def __init__(
        self,
        config: Config,
        selector: selectors.BaseSelector,
        radio: Radio,
        feed: Callable[[Event], None],
        trouble: Callable[[str, str], None],
        clock: Callable[[], float],
    ) -> None:
        self._feed, self._trouble, self._clock = feed, trouble, clock
        self._selector, self._radio = selector, radio
        self._site = config.site
        virtual = [(vip.address, vip.device) for vip in config.vips]
        self._devices = tuple(dict.fromkeys([*(device for _, device in virtual), *(each.device for each in config.links)]))
        self.evidence = Evidence(
            config.site.peer,
            virtual,
            radio.peers,
            lambda: radio.peers_macs,
            lambda device, nodes: Pinger(nodes, device=device),
            ArpWatch,
            clock,
        )
        self._vip_ping = VipPing(None, None)
        self._fencer = Fencer(config.fences, config.site.peer, config.fence_timeout)
        self._watchdog = Watchdog(config.watchdog, config.timing.deadtime) if config.watchdog else None
        self._check_at = self._clock() + FIRST_CHECK if config.fences else inf
        self._macs_at = -inf

    def start(self, config: Config, assigned: Sequence[Assigned]) -> None:
        """Make the ARP check ready, if it is wanted; tell the core what stands against it."""
        if config.site.arp_check:
            self._vip_ping = _vip_ping(config, assigned)
            self._feed(ArpUnusable(self._vip_ping.unusable))

    def close(self, clean: bool) -> None:
        """``clean``: this end was meant."""
        self._fencer.close()
        self._vip_ping.close()
        self.evidence.close()
        if self._watchdog is not None:
            self._watchdog.close(clean)

    # --- the loop's turns -----------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When ``tick`` must be called. Most of what it does is done in a turn that something else brings about."""
        return min(self._check_at, self._macs_at + 2 * _MAC_PERIOD, self._watchdog.due if self._watchdog else inf)

    def tick(self, now: float) -> None:
        """To be called at every turn."""
        if now >= self._macs_at + _MAC_PERIOD:
            self._macs_at = now
            self._radio.own_macs = tuple(_macs(self._devices))  # told to the peer in every heartbeat
            self.evidence.own = frozenset(self._radio.own_macs)
        if self._watchdog is not None and now >= self._watchdog.due:
            self._watchdog.feed(now)
            self._trouble("watchdog", self._watchdog.trouble)
        if now >= self._check_at:
            self._check_at = now + CHECK_PERIOD
            if not self._fencer.running:
                self._run("check")

    def listen(self) -> None:
        """Hand what arrived to the core; at every turn."""
        for sign in self.evidence.signs():
            self._feed(sign)
        for answer in self._vip_ping.answers():
            self._feed(answer)

    # --- the core's effects -------------------------------------------------------------------------------------------

    def probe(self) -> None:
        self.evidence.probe()

    def ping_from_vip(self, seq: int) -> None:
        self._vip_ping.send(seq)

    def fence(self, because: str) -> None:
        """Switch the peer off; a check that runs is given up for it, an agent that already does it goes on."""
        log.warning("%s is fenced: %s", self._site.peer, because)
        if self._fencer.kind == "check":
            self._selector.unregister(self._fencer)
            self._fencer.close()
        if not self._fencer.running:
            self._run("fence")

    def ask_grant(self, asked: AskGrant) -> None:
        """No witness is provided by anything yet; the core asks only where some are configured."""
        self._feed(Granted(asked.new, False, "no witness is configured"))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _run(self, kind: str) -> None:
        self._fencer.start(kind)
        self._selector.register(self._fencer, selectors.EVENT_READ, self._ended)

    def _ended(self, mask: int) -> None:
        self._selector.unregister(self._fencer)
        outcome = self._fencer.outcome()
        if outcome.kind == "check":
            self._trouble("fence-agent", "" if outcome.ok else f"{self._site.peer} can't be fenced now: {outcome.text}")
            return
        log.log(logging.WARNING if outcome.ok else logging.ERROR, "fencing: %s", outcome.text)
        self._feed(Fenced(outcome.ok, outcome.text))


def _macs(devices: Iterable[str]) -> Iterable[bytes]:
    for device in devices:
        try:
            yield mac(device)
        except NetworkError:
            continue  # it is gone now; asked again in a second


def _vip_ping(config: Config, assigned: Sequence[Assigned]) -> VipPing:
    """From the first virtual address on whose network there is a ping node: all of them are where that one is."""
    nodes = [each for group in config.ping_groups.values() for each in group]
    for vip in config.vips:
        if node := ping_node(vip.address, vip.device, nodes, assigned):
            return VipPing(Pinger([node], source=vip.address, device=vip.device), Announce(vip.device))
    addresses = ", ".join(vip.address for vip in config.vips) or "that isn't there"
    return VipPing(None, None, f"no ping node is on the network of the virtual IP {addresses} (IPv4 only)")
