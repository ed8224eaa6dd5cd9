"""Messages for our virtual router that don't fit with how this node is configured: what is wrong with them, and who knows.

Promise: ``judge`` says whether a message counts (RFC 3768 §7.1, RFC 5798 §7.1) and what is wrong with it; ``alarms`` tells each
trouble once when it begins or changes, and once when it has ended: the sender agrees again, or has been silent for
``FORGET``. Pure.

| differs                       | the message counts | because                                                        |
|-------------------------------|--------------------|----------------------------------------------------------------|
| version                       | no                 | RFC 3768 §7.1, RFC 5798 §7.1                                   |
| password (version 2)          | no                 | RFC 2338 §7.1                                                  |
| other authentication          | no                 | abolished by RFC 3768; keepalived still has it (auth_type AH)  |
| interval, version 2           | no                 | RFC 3768 §7.1 (MUST)                                           |
| interval, version 3           | yes                | backups learn it (RFC 5798 §6.1); still nobody meant it        |
| addresses, none in common     | no                 | another group with our VRID: it holds none of our addresses    |
| addresses, some in common     | yes                | two masters of one address are worse than a list out of date   |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from director.model import Advertisement, Alarm, Instance

#: seconds without a message after which a sender's trouble counts as over; at least so many of its intervals
FORGET, FORGET_INTERVALS = 10.0, 4
#: seconds in which a sender's trouble stays as it was told, so that a flood of all kinds of nonsense doesn't fill the log
CALM = 1.0
#: senders whose troubles are kept: a flood of forged ones has to end somewhere
_MOST = 64


@dataclass(frozen=True)
class Trouble:
    """``kind`` names the alarm and the counter. ``counts``: the message may still be acted upon."""

    kind: str
    text: str
    counts: bool = False


def judge(advert: Advertisement, instance: Instance) -> Trouble | None:
    """What is wrong with a message for our VRID; None: nothing."""
    who = f"{advert.source}, virtual router {instance.name}"
    if advert.version != instance.version:
        return Trouble("version", f"{who}: VRRP version {advert.version}, here {instance.version}")
    if advert.strange:
        return Trouble("authentication", f"{who}: {advert.strange}, which isn't understood here: give both a password, or none")
    if advert.version == 2 and (advert.password or "") != instance.password:
        return Trouble("password", f"{who}: {_authentication(advert, instance)}")
    differs = abs(advert.interval - instance.advert) > 0.0001
    if differs and advert.version == 2:
        return Trouble("interval", _interval(who, advert, instance))
    theirs, ours = set(advert.addresses), set(instance.addresses)
    if not theirs & ours:
        said = f"{who} is in use by another group: {_list(theirs)}, here {_list(ours)}"
        return Trouble("vrid", said)
    if theirs != ours:
        return Trouble("addresses", f"{who}: other virtual addresses: {_list(theirs)}, here {_list(ours)}", counts=True)
    return Trouble("interval", _interval(who, advert, instance), counts=True) if differs else None


def _authentication(advert: Advertisement, instance: Instance) -> str:
    if advert.password is None:
        return "no password, here there is one"
    return "another password" if instance.password else "a password, here there is none"


def _interval(who: str, advert: Advertisement, instance: Instance) -> str:
    return f"{who}: advertises every {advert.interval:g} s, here every {instance.advert:g} s"


def _list(addresses: set[str]) -> str:
    return ", ".join(sorted(addresses)) or "none"


@dataclass
class _Told:
    trouble: Trouble
    since: float
    until: float


@dataclass
class Discord:
    """The troubles that there are, by sender."""

    _told: dict[str, _Told] = field(default_factory=dict)

    def heard(self, source: str, trouble: Trouble | None, interval: float, now: float) -> Iterator[Alarm]:
        """``source`` has sent a message with this trouble, or a good one."""
        before = self._told.get(source)
        if before is None and (trouble is None or len(self._told) >= _MOST):
            return
        until = now + max(FORGET, FORGET_INTERVALS * interval)
        if before is not None and (before.trouble == trouble or now - before.since < CALM):
            before.until = until
            return
        if before is not None and (trouble is None or trouble.kind != before.trouble.kind):
            del self._told[source]
            yield Alarm(_name(source, before.trouble), "")
        if trouble is not None:
            self._told[source] = _Told(trouble, now, until)
            yield Alarm(_name(source, trouble), trouble.text)

    def expired(self, now: float) -> Iterator[Alarm]:
        for source, told in list(self._told.items()):
            if now >= told.until:
                del self._told[source]
                yield Alarm(_name(source, told.trouble), "")

    @property
    def due(self) -> float:
        return min((each.until for each in self._told.values()), default=inf)


def _name(source: str, trouble: Trouble) -> str:
    return f"{trouble.kind}-{source}"
