"""Looking for a peer that is not heard: does its host answer, and who answers for the virtual addresses (design §4, rule 1)?

Promise: ``probe`` and ``signs`` never wait and raise nothing. An answer for a virtual address counts as the peer's only if its
MAC is one that the peer named in its authenticated heartbeats; every other one is a stranger's. The questions change nobody's
neighbour table (``runtime.arpwatch``). What the signs are worth is the core's business. Source: design §4 rule 1;
facts/safety-model.md ("A gateway with proxy ARP answers for the VIP itself").
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from heartbeat.model import Sign
from heartbeat.signs import HOST, STRANGER, VIP
from runtime.arpwatch import Claim, text
from runtime.errors import HaError

#: answers to a question are waited for so long (seconds); what comes later, or was queued before, says nothing of now
FRESH = 1.0


class Echoes(Protocol):
    """``ping.Pinger``, bound to one interface."""

    def send(self, seq: int) -> int: ...
    def receive(self) -> Iterable[tuple[str, int]]: ...
    def close(self) -> None: ...


class Watch(Protocol):
    """``runtime.arpwatch.ArpWatch``."""

    def probe(self, address: str) -> None: ...
    def drain(self) -> list[Claim]: ...
    def close(self) -> None: ...


class Evidence:
    """Asks on every link and for every virtual address; what answers becomes ``Sign`` events."""

    def __init__(
        self,
        peer: str,
        virtual: Sequence[tuple[str, str]],
        peers: Callable[[], Mapping[str, Iterable[str]]],
        peers_macs: Callable[[], frozenset[bytes]],
        echoes: Callable[[str, tuple[str, ...]], Echoes],
        watch: Callable[[str, tuple[str, ...]], Watch],
        clock: Callable[[], float],
    ) -> None:
        """``virtual``: (address, interface). ``peers``, ``peers_macs``: the peer's addresses by interface, and the MACs that
        its heartbeats name, as far as they are known now. ``echoes``, ``watch``: make what asks on one interface, or raise
        OSError or HaError.
        """
        self._peer = peer
        self._devices: dict[str, tuple[str, ...]] = {}
        for address, device in virtual:
            self._devices[device] = (*self._devices.get(device, ()), address)
        self._peers, self._peers_macs = peers, peers_macs
        self._make_echoes, self._make_watch = echoes, watch
        self._clock = clock
        self._echoes: dict[str, tuple[tuple[str, ...], Echoes]] = {}
        self._watches: dict[str, Watch] = {}
        self._asked_at = -FRESH
        self._seq = 0
        #: this server's own MACs
        self.own: frozenset[bytes] = frozenset()

    @property
    def asking(self) -> bool:
        """Answers may be on their way."""
        return self._clock() - self._asked_at < FRESH

    def probe(self) -> None:
        """Ask everybody now. What can't be asked, because an interface is down or gone, is asked again next time."""
        if not self.asking:
            self._forget()
        self._asked_at = self._clock()
        self._seq += 1
        for device, addresses in self._peers().items():
            with contextlib.suppress(OSError, HaError):
                self._ping(device, tuple(addresses))
        for device, addresses in self._devices.items():
            for address in addresses:
                with contextlib.suppress(OSError, HaError):
                    self._listening(device).probe(address)

    def signs(self) -> list[Sign]:
        """What was answered since the last call, each thing once."""
        if not self.asking:
            return []
        found: dict[tuple[str, str], Sign] = {}
        for device, (_, echoes) in self._echoes.items():
            for address, _seq in echoes.receive():
                found[HOST, device] = Sign(HOST, device, f"{self._peer} answers pings at {address}")
        for device, watch in self._watches.items():
            for claim in watch.drain():
                if sign := self._judged(device, claim):
                    found[sign.kind, device] = sign
        return list(found.values())

    def close(self) -> None:
        for _, echoes in self._echoes.values():
            echoes.close()
        for watch in self._watches.values():
            watch.close()
        self._echoes, self._watches = {}, {}

    # --- inside -------------------------------------------------------------------------------------------------------

    def _judged(self, device: str, claim: Claim) -> Sign | None:
        if claim.mac in self.own:
            return None
        theirs = self._peers_macs()
        if claim.mac in theirs:
            return Sign(VIP, device, f"{self._peer} ({text(claim.mac)}) answers for {claim.address}")
        whose = "neither server of the pair, find out whose it is"
        if not theirs:
            whose = f"{self._peer} or a stranger, which is not known before {self._peer} was heard"
        return Sign(STRANGER, device, f"{text(claim.mac)} answers for {claim.address}: {whose}")

    def _ping(self, device: str, addresses: tuple[str, ...]) -> None:
        known, echoes = self._echoes.get(device, ((), None))
        if echoes is not None and known == addresses and echoes.send(self._seq):
            return
        if echoes is not None:
            echoes.close()  # other addresses; or the interface was removed and made again
            del self._echoes[device]
        fresh = self._make_echoes(device, addresses)
        self._echoes[device] = addresses, fresh
        fresh.send(self._seq)

    def _listening(self, device: str) -> Watch:
        if device not in self._watches:
            self._watches[device] = self._make_watch(device, self._devices[device])
        return self._watches[device]

    def _forget(self) -> None:
        """What was heard while nobody asked is old."""
        for _, echoes in self._echoes.values():
            list(echoes.receive())
        for watch in self._watches.values():
            while watch.drain():
                pass
