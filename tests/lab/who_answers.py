"""Who answers ARP for an address, asked every 20 ms: ``python -m tests.lab.who_answers ADDRESS INTERFACE``.

One line a question: the time, a space, the MACs that answered before the next question, joined with commas (two: two servers
hold the address; none: nobody does). Ends with SIGTERM.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

PERIOD = 0.02
_ARP = 0x0806


def question(mac: bytes, target: bytes) -> bytes:
    """A probe: it names no sender, so nobody's table changes (RFC 5227 §2.1.1)."""
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, bytes(4), bytes(6), target)
    return b"\xff" * 6 + mac + struct.pack("!H", _ARP) + body


def answers(s: socket.socket, mac: bytes, target: bytes, until: float) -> set[str]:
    """Who answers this asker; announcements are for everybody, and don't count."""
    found = set()
    while (left := until - time.monotonic()) > 0:
        s.settimeout(left)
        try:
            frame = s.recv(100)
        except TimeoutError:
            break
        if frame[:6] == mac and frame[20:22] == b"\0\2" and frame[28:32] == target:
            found.add(frame[22:28].hex(":"))
    return found


def longest(output: str) -> float:
    """Seconds for which two answered without a pause, of what ``main`` has printed."""
    found = since = 0.0
    for words in map(str.split, output.splitlines()):
        at = float(words[0])
        since = (since or at) if "," in words[-1] else 0.0
        found = max(found, at - since if since else 0.0)
    return found


def main() -> None:
    target = socket.inet_aton(sys.argv[1])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ARP)) as s:
        s.bind((sys.argv[2], _ARP))
        mac = s.getsockname()[4]
        packet = question(mac, target)
        due = time.monotonic()
        while True:
            due = max(due + PERIOD, time.monotonic())
            s.send(packet)
            macs = answers(s, mac, target, due)
            print(f"{time.monotonic():.3f} {','.join(sorted(macs))}", flush=True)


if __name__ == "__main__":
    main()
