"""The post of a proxy group: what this member says to the others, and what of theirs is given to it.

Promise: what isn't made with the group's key, is of another group, or was said before (``discovery``) is dropped and counted by
reason; the first of each is logged, and who uses another key is remembered. A key, an address or an interface that is missing
is an alarm, and nothing is said or heard until ``open`` succeeds. Nothing here waits. Source: docs/protocols.md, "Protocol
253".
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import stat
from collections.abc import Callable
from pathlib import Path

from director.beacon import Beacon
from director.discovery import Counters, Dropped, Freshness, Message, decode, encode
from director.groupmodel import Send
from director.strangers import Strangers
from runtime.clock import boottime
from runtime.errors import HaError
from runtime.loop import Loop

log = logging.getLogger(__name__)

_SHORTEST_KEY = 16

#: message, its source, whether it counts (else its sender is only to be answered)
Deliver = Callable[[Message, str, bool], None]


class Post:
    def __init__(self, loop: Loop, deliver: Deliver, alarm: Callable[[str, str], None]) -> None:
        self.counters = Counters()
        self.strangers = Strangers()
        self._loop, self._deliver, self._alarm = loop, deliver, alarm
        self._freshness = Freshness(secrets.randbits(63) + 1)
        self._counter = 0
        self._beacon: Beacon | None = None
        self._key = b""
        self._lbid = 0
        self._own = ""

    @property
    def interface(self) -> str:
        """ "" while nothing is said or heard."""
        return self._beacon.interface if self._beacon is not None else ""

    def open(self, own: str, lbid: int, key_file: str, address: str, interface: Callable[[], str]) -> None:
        """``own``: the MAC by which the others know this process. ``interface`` raises HaError if no one has the address."""
        self.close()
        try:
            self._key = read_key(key_file)
            self._beacon = Beacon(address, interface())
        except (HaError, OSError) as error:
            self._alarm("discovery", f"this node hears no other: {error}")
            return
        self._own, self._lbid = own, lbid
        self._loop.selector.register(self._beacon, selectors.EVENT_READ, lambda mask: self.hear())
        self._alarm("discovery", "")

    def close(self) -> None:
        if self._beacon is not None:
            self._loop.selector.unregister(self._beacon)
            self._beacon.close()
            self._beacon = None

    def hear(self) -> None:
        """Everything that has arrived."""
        if self._beacon is None:
            return
        for data, source in self._beacon.heard():
            self.counters.received += 1
            try:
                message = decode(data, self._key, self._lbid)
                if message.mac == self._own:
                    raise Dropped("own", "it was sent by this node, or another one has its MAC")
                fresh = self._freshness.accept(message)
            except Dropped as dropped:
                self._drop(dropped, source)
                continue
            if self._freshness.exhausted:
                self._freshness.renew(secrets.randbits(63) + 1)
            self._deliver(message, source, fresh)

    def send(self, send: Send) -> None:
        if self._beacon is None:
            return
        self._counter += 1
        echo = self._freshness.echo(*([send.echo] if send.echo else []))
        message = Message(send.kind, self._lbid, self._freshness.session, self._counter, self._own, {**send.body, "echo": echo})
        try:
            self._beacon.send(encode(message, self._key), send.to)
            self.counters.sent += 1
        except BlockingIOError:
            pass  # the next heartbeat says it again
        except OSError as error:
            self._alarm("discovery", f"this node can't be heard: {error.strerror}")
            self.close()

    def _drop(self, dropped: Dropped, source: str) -> None:
        first = dropped.because not in self.counters.dropped
        self.counters.dropped[dropped.because] += 1
        if first:
            log.warning("protocol 253: dropped a message of %s: %s (counted from now on)", source, dropped)
        if dropped.because == "authentication":
            self.strangers.heard(source, boottime())


def read_key(file: str) -> bytes:
    """The group's key. HaError says what to do."""
    make = f"make one with: director key > {file}, mode 0600, the same on every member"
    try:
        mode = os.stat(file).st_mode
        key = Path(file).read_bytes().strip()
    except OSError as error:
        raise HaError(f"the group's key {file}: {error.strerror}; {make}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise HaError(f"others than root can read the group's key: chmod 600 {file}")
    if len(key) < _SHORTEST_KEY:
        raise HaError(f"the group's key {file} is shorter than {_SHORTEST_KEY} characters; {make}")
    return key
