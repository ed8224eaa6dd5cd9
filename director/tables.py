"""The buckets that one member knows of: what is in force, and what the director is about to switch to. Pure.

Promise: every member adopts what the director of the highest term says, in its order; a message that was lost leaves it with
what is in force or what was before, never with half of it. Source: docs/protocols.md, "Protocol 253";
``plane.Content.pending`` tells why there are two.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from director.buckets import DEPTH, Table
from director.members import Serial, mac, serial, text

_MOST_MEMBERS, _MOST_BUCKETS = 254, 4096
NONE: Serial = (0, 0)


def as_json(key: str, table: Table, number: Serial, committed: bool) -> dict[str, Any]:
    """One table as a message's body: an octet for each bucket, and for each of its earlier owners (0: nobody)."""
    named = {*table.owners, *(each for before in table.before for each in before)} - {""}
    members = sorted(named)
    index = {"": 0} | {member: place for place, member in enumerate(members, start=1)}
    rows = [bytes(index[owner] for owner in table.owners)]
    for depth in range(max((len(before) for before in table.before), default=0)):
        rows.append(bytes(index[before[depth]] if depth < len(before) else 0 for before in table.before))
    return {
        "key": key,
        "serial": list(number),
        "committed": committed,
        "members": members,
        "rows": [base64.b64encode(row).decode() for row in rows],
    }


def from_json(body: Mapping[str, Any]) -> tuple[str, Table, Serial, bool]:
    """ValueError for what isn't one."""
    listed, rows = body.get("members"), body.get("rows")
    if not isinstance(listed, list) or len(listed) > _MOST_MEMBERS:
        raise ValueError("no list of members")
    if not isinstance(rows, list) or not 1 <= len(rows) <= DEPTH + 1:
        raise ValueError("no list of owners")
    members = ["", *(mac(each) for each in listed)]
    read = [_row(each, members) for each in rows]
    if len({len(row) for row in read}) != 1 or not 1 <= len(read[0]) <= _MOST_BUCKETS:
        raise ValueError("rows of different length")
    before = tuple(tuple(dict.fromkeys(each for each in column if each)) for column in zip(*read[1:], strict=True))
    if not isinstance(body.get("committed"), bool):
        raise ValueError("neither committed nor not")
    table = Table(tuple(read[0]), before or ((),) * len(read[0]))
    return text(body.get("key")), table, serial(body.get("serial")), body["committed"]


def _row(encoded: object, members: list[str]) -> list[str]:
    if not isinstance(encoded, str):
        raise ValueError("no row")
    try:
        return [members[octet] for octet in base64.b64decode(encoded, validate=True)]
    except IndexError as beyond:
        raise ValueError("a member that isn't listed") from beyond


class Tables:
    """Of one member, by redirect."""

    def __init__(self) -> None:
        self.current: dict[str, Table] = {}
        self.pending: dict[str, Table] = {}
        self._in_force: dict[str, Serial] = {}
        self._coming: dict[str, Serial] = {}

    def loaded(self) -> dict[str, Serial]:
        """The newest that is held of each."""
        return self._in_force | self._coming

    def in_force(self, key: str) -> Serial:
        return self._in_force.get(key, NONE)

    def take(self, key: str, table: Table, number: Serial, committed: bool) -> None:
        if committed:
            self.current[key], self._in_force[key] = table, number
            self.drop_pending(key)
        else:
            self.pending[key], self._coming[key] = table, number

    def commit(self, key: str, number: Serial) -> bool:
        """The director has switched to ``number``: True if that is in force here now."""
        if self._in_force.get(key) == number:
            if self._coming.get(key, NONE) < number:
                self.drop_pending(key)
            return True
        if self._coming.get(key) != number:
            return False
        self.current[key], self._in_force[key] = self.pending[key], number
        self.drop_pending(key)
        return True

    def drop_pending(self, key: str) -> None:
        self.pending.pop(key, None)
        self._coming.pop(key, None)

    def keep(self, keys: list[str], count: int) -> list[str]:
        """The configuration has changed: forget all others, and those of another number of buckets.

        A redirect that has a port of an earlier one takes over its buckets: the connections of that port are where they were.
        Returns those that did.
        """
        before = {key: table for key, table in self.current.items() if len(table.owners) == count}
        heirs = {key: [each for each in before if _ports(each) & _ports(key)] for key in keys if key not in before}
        for key, parents in heirs.items():
            if parents:
                self.take(key, _united([before[each] for each in parents]), self._in_force[parents[0]], True)
        self._forget(keys, count)
        return [key for key, parents in heirs.items() if parents]

    def _forget(self, keys: list[str], count: int) -> None:
        for key in list(self.current.keys() | self.pending.keys()):
            if key not in keys or len((self.current.get(key) or self.pending[key]).owners) != count:
                self.current.pop(key, None)
                self._in_force.pop(key, None)
                self.drop_pending(key)


def _ports(key: str) -> set[tuple[str, str]]:
    """Of ``plane.key_of``'s text."""
    transport, _, ports = key.partition(" ")
    return {(transport, port) for port in ports.split(",")}


def _united(tables: list[Table]) -> Table:
    """The first's owners; everybody's are asked about earlier connections."""
    owners, before = tables[0].owners, []
    for bucket, owner in enumerate(owners):
        chain = [each for table in tables for each in (table.owners[bucket], *table.before[bucket])]
        before.append(tuple(dict.fromkeys(each for each in chain if each and each != owner))[:DEPTH])
    return Table(owners, tuple(before))
