"""Two network namespaces joined by a cable, for tests that need real packets."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Iterator

from lab.namespace import Namespace

_indices = itertools.count(70)


@contextlib.contextmanager
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    """Server A (lan0, 10.0.0.1/24) and its neighbour B (lan0, 10.0.0.2/24 and 10.0.0.3/24)."""
    a, b = Namespace(), Namespace()
    try:
        lay(a, b)
        yield a, b
    finally:
        a.close()
        b.close()


def lay(a: Namespace, b: Namespace) -> None:
    """(Again) a cable between the two.

    The indices of its ends differ: else the kernel acts on the carrier a second later (``linkwatch_urgent_event``).
    """
    a.ip(f"link add lan0 index {next(_indices)} type veth peer name lan0 netns {b.path}")
    a.ip("address add 10.0.0.1/24 dev lan0", "link set lan0 up")
    b.ip("address add 10.0.0.2/24 dev lan0", "address add 10.0.0.3/24 dev lan0", "link set lan0 up")
    settle(a, b)


def settle(*namespaces: Namespace) -> None:
    """Wait until links are in use: the kernel may take a second to act on a carrier, and discards packets until then."""
    end = time.monotonic() + 5
    while not all(_settled(ns.run(["ip", "-brief", "link", "show", "type", "veth"])) for ns in namespaces):
        assert time.monotonic() < end, "a link did not come up"
        time.sleep(0.01)


def _settled(links: str) -> bool:
    return all(line.split()[1] == "UP" for line in links.splitlines())


def asks_arp(ns: Namespace, target: str, seconds: float = 0.15) -> bytes | None:
    """The MAC that answers for ``target`` on lan0, if one does."""
    with ns, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as s:
        s.bind(("lan0", 0x0806))
        mac = s.getsockname()[4]
        request = struct.pack(
            "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, socket.inet_aton("10.0.0.2"), bytes(6), socket.inet_aton(target)
        )
        s.send(b"\xff" * 6 + mac + b"\x08\x06" + request)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            s.settimeout(left)
            try:
                frame = s.recv(100)
            except TimeoutError:
                break
            if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(target):
                return frame[22:28]
    return None


def connects(ns: Namespace, address: str, port: int, source: str = "", seconds: float = 0.5) -> str:
    """ "open", "refused" or "silent"."""
    with ns:
        s = socket.socket()
    with s:
        s.settimeout(seconds)
        s.bind((source, 0))
        try:
            s.connect((address, port))
        except ConnectionRefusedError:
            return "refused"
        except (TimeoutError, OSError):
            return "silent"
        return "open"
