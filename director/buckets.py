"""Which member owns which bucket: shares by weight, with as few moves as it takes.

Promise: once settled, every member holds the whole buckets just below or just above its weight's share. A member that joins
gets its share and nothing else moves (at most ⌈buckets/n⌉ among n equals); when one is lost, only its buckets move, unless
shares force more. Buckets of a member that can't serve move at once; all other moves are ``limit`` at a time. Every bucket
remembers who had it before, latest first, so that connections that began there can be given their second chance
(facts/vrrp-and-data-plane.md). The same calls give the same table on every member. Source: design §8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil, floor

#: So many earlier owners of a bucket are asked for a connection that its owner doesn't know
DEPTH = 7
#: Shares are sums of fractions
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Table:
    """Who owns each bucket, and who did, latest first. "" owns what was never given to anybody."""

    owners: tuple[str, ...]
    before: tuple[tuple[str, ...], ...]

    @classmethod
    def empty(cls, count: int) -> Table:
        return cls(("",) * count, ((),) * count)

    def counts(self) -> Counter[str]:
        return Counter(owner for owner in self.owners if owner)

    def next_of(self, member: str, bucket: int, alive: Collection[str]) -> str:
        """Whom of those ``alive`` ``member`` asks about a connection in ``bucket`` that it doesn't know; "" if nobody is left.

        The chain goes from the owner to the earlier ones and never back, so no packet goes round. A dead one would swallow it.
        """
        chain = [owner for owner in (self.owners[bucket], *self.before[bucket]) if owner]
        after = chain.index(member) + 1 if member in chain else len(chain)
        return next((each for each in chain[after:] if each in alive), "")


@dataclass(frozen=True)
class Move:
    bucket: int
    giver: str
    taker: str


class Buckets:
    """The buckets of one port redirect."""

    def __init__(self, table: Table) -> None:
        self._owners = list(table.owners)
        self._before = list(table.before)

    @property
    def table(self) -> Table:
        return Table(tuple(self._owners), tuple(self._before))

    def settle(self, weights: Mapping[str, float], serving: Collection[str], known: Collection[str], limit: int) -> list[Move]:
        """Give buckets where they belong; the moves made.

        ``weights``: who is to own buckets (above 0). ``serving``: whose buckets may wait for their turn; a member that drains
        serves. ``known``: who is remembered as an earlier owner, also while it is away: it may be back, with its connections.
        Nobody to own buckets: nothing moves.
        """
        shares = _shares(weights, len(self._owners))
        self._forget(known)
        if not shares:
            return []
        round_ = _Round(self._owners, self._before, shares)
        moves = [round_.rehome(bucket) for bucket, owner in enumerate(self._owners) if owner not in serving]
        while limit > 0 and (step := round_.next_step()):
            moves.append(round_.move(*step))
            limit -= 1
        for move in moves:
            self._note(move, known)
        return moves

    def _note(self, move: Move, known: Collection[str]) -> None:
        earlier = (move.giver, *self._before[move.bucket])
        kept = dict.fromkeys(each for each in earlier if each != move.taker and each in known)
        self._before[move.bucket] = tuple(kept)[:DEPTH]

    def _forget(self, known: Collection[str]) -> None:
        for bucket, earlier in enumerate(self._before):
            if any(each not in known for each in earlier):
                self._before[bucket] = tuple(each for each in earlier if each in known)


def settled(table: Table, weights: Mapping[str, float], serving: Collection[str]) -> bool:
    """Whether ``settle`` would move nothing."""
    return not Buckets(table).settle(weights, serving, serving, 1)


class _Round:
    """One settling: who holds how many, who is to hold how many."""

    def __init__(self, owners: list[str], before: list[tuple[str, ...]], shares: dict[str, float]) -> None:
        self._owners, self._before, self._shares = owners, before, shares
        self._held: dict[str, list[int]] = {member: [] for member in shares}
        for bucket, owner in enumerate(owners):
            self._held.setdefault(owner, []).append(bucket)

    def rehome(self, bucket: int) -> Move:
        """To an earlier owner that has room, else to whoever lacks most."""
        known = [each for each in self._before[bucket] if self._lack(each) >= 1.0]
        return self._moved(bucket, known[0] if known else self._neediest())

    def next_step(self) -> tuple[str, str] | None:
        """Who gives a bucket to whom next, until all hold the whole number below or above their share."""
        leaving = [member for member, held in self._held.items() if held and member not in self._shares]
        if leaving:
            return max(leaving, key=lambda member: (len(self._held[member]), member)), self._neediest()
        above = [m for m, share in self._shares.items() if len(self._held[m]) > ceil(share - _ROUNDING)]
        below = [m for m, share in self._shares.items() if len(self._held[m]) < floor(share + _ROUNDING)]
        if not above and not below:
            return None
        giver = max(above or self._shares, key=lambda member: (-self._lack(member), member))
        taker = max(below or self._shares, key=lambda member: (self._lack(member), member))
        return giver, taker

    def move(self, giver: str, taker: str) -> Move:
        """A bucket that ``taker`` had before, else one that moved least."""
        held = self._held[giver]
        bucket = min(held, key=lambda each: (_place(self._before[each], taker), len(self._before[each]), each))
        return self._moved(bucket, taker)

    def _moved(self, bucket: int, taker: str) -> Move:
        giver = self._owners[bucket]
        self._held[giver].remove(bucket)
        self._held[taker].append(bucket)
        self._owners[bucket] = taker
        return Move(bucket, giver, taker)

    def _lack(self, member: str) -> float:
        return self._shares.get(member, 0.0) - len(self._held.get(member, ()))

    def _neediest(self) -> str:
        return max(self._shares, key=lambda member: (self._lack(member), member))


def _shares(weights: Mapping[str, float], count: int) -> dict[str, float]:
    above = {member: weight for member, weight in weights.items() if weight > 0}
    whole = sum(above.values())
    return {member: count * weight / whole for member, weight in above.items()}


def _place(before: tuple[str, ...], member: str) -> int:
    return before.index(member) if member in before else DEPTH
