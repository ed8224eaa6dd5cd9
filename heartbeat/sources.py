"""Who may speak on a link: a cheap first answer from the address of a datagram's sender, before any hash is computed.

Promise: on a link whose lines are all ``ucast``, while the peer is heard from an address that ha.cf names (or that it was heard
from before), nobody else gets a hash computed. When it isn't heard for ``patience``, others are listened to: a peer with
several addresses may speak from one that ha.cf doesn't name, and an *authentic* frame makes that one known. So an address
decides what is looked at, never what is believed. Source: design §5.

Times are seconds of the caller's clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from math import inf

#: addresses of the peer that ha.cf doesn't name, and strangers counted one by one
MOST_LEARNED, MOST_COUNTED = 4, 16
OTHERS = "others"


class Sources:
    def __init__(self, named: Collection[str], open_: bool, patience: float) -> None:
        """``named``: the peer's addresses in ha.cf; ``open_``: anybody may speak here (bcast, mcast)."""
        self._named = frozenset(named)
        self._open = open_
        self._patience = patience
        self._heard: dict[str, float] = {}
        self._heard_at = -inf
        #: by address: refused datagrams, whatever the reason
        self.refused: Counter[str] = Counter()

    def admits(self, sender: str, now: float) -> bool:
        """Whether what comes from there is worth a hash."""
        known = self._open or sender in self._named or sender in self._heard
        return known or now - self._heard_at >= self._patience

    def refuse(self, sender: str) -> None:
        self.refused[sender if sender in self.refused or len(self.refused) < MOST_COUNTED else OTHERS] += 1

    def heard(self, sender: str, now: float) -> bool:
        """An authentic frame of the peer came from there; True if ha.cf names other addresses and this one is new."""
        new = sender not in self._heard
        self._heard[sender] = self._heard_at = now
        while len(self._heard) > MOST_LEARNED + len(self._named):
            del self._heard[min(self._heard, key=self._heard.__getitem__)]
        return new and not self._open and sender not in self._named

    @property
    def known(self) -> frozenset[str]:
        """The addresses from which the peer was ever heard here."""
        return frozenset(self._heard)

    def lately(self, now: float) -> frozenset[str]:
        """The addresses from which the peer was heard within ``patience``."""
        return frozenset(sender for sender, at in self._heard.items() if now - at < self._patience)
