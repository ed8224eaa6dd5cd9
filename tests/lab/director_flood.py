"""A hostile neighbour of directors: ``python -m tests.lab.director_flood SECONDS RATE INTERFACE VICTIM``.

It overhears the group's broadcasts and adverts on INTERFACE for a moment, then sends RATE frames a second, each of another
kind: of protocol 253 noise, truncated, of another group, under a wrong key, changed by a bit, and the very messages that it
overheard; of VRRP with a wrong TTL, checksum, length, version, type, and of another virtual router. Half of them come from
VICTIM's address. Prints how many it sent.
"""

from __future__ import annotations

import itertools
import socket
import struct
import sys
import time

from director import discovery, packets
from director.discovery import Kind, Message
from director.model import Advertisement

OWN = "10.10.74.50"
_BATCH = 0.005
_IP = 0x0800
_MULTICAST = bytes.fromhex("01005e000012")


def overheard(interface: str, protocol: int, count: int, limit: float = 10.0) -> list[bytes]:
    """Payloads of IP packets."""
    found: list[bytes] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_IP)) as s:
        s.bind((interface, _IP))
        s.settimeout(limit)
        while len(found) < count:
            packet = s.recv(65536)
            if packet[9] == protocol:
                found.append(packet[(packet[0] & 15) * 4 :])
    return found


def of_discovery(true: list[bytes]) -> list[bytes]:
    body = {"me": {"mac": "02:00:00:00:00:66"}, "term": 10**9, "members": [], "tables": {}, "echo": {"sessions": ["1"]}}
    forged = discovery.encode(Message(Kind.DIRECTOR, 51, 7, 10**9, "02:00:00:00:00:66", body), b"guessed" * 8)
    elsewhere = discovery.encode(Message(Kind.DIRECTOR, 52, 7, 1, "02:00:00:00:00:66", body), b"guessed" * 8)
    kinds = [b"", b"\0", b"noise " * 20, discovery.MAGIC, discovery.MAGIC + bytes(300), b"\xff" * 1400, forged, elsewhere]
    for message in true:
        middle = len(message) // 2
        changed = message[:middle] + bytes([message[middle] ^ 1]) + message[middle + 1 :]
        kinds += [message, message[:-1], message[:middle], changed, message + b"x"]
    return kinds


def of_vrrp(true: list[bytes], source: str) -> list[tuple[bytes, int]]:
    """With their TTL."""
    other = Advertisement(source, 3, 52, 254, 0.1, ("10.10.74.99",))
    kinds = [(packets.encode(other, packets.GROUP[4]), 255), (b"", 255), (b"\xff" * 200, 255), (bytes(8), 255)]
    for message in true:
        bad = message[:6] + bytes([message[6] ^ 1]) + message[7:]
        kinds += [(message, 254), (bad, 255), (message[:-1], 255), (message + bytes(4), 255)]
        kinds += [(b"\x51" + message[1:], 255), (b"\x32" + message[1:], 255)]
    return kinds


def frame(mac: bytes, source: str, protocol: int, payload: bytes, ttl: int = 1) -> bytes:
    """To everybody; VRRP to its group."""
    to, target = (_MULTICAST, packets.GROUP[4]) if protocol == packets.PROTOCOL else (b"\xff" * 6, "255.255.255.255")
    pair = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack("!BBHHHBBH8s", 0x45, 0, 20 + len(payload), 0, 0, ttl, protocol, 0, pair)
    header = header[:10] + struct.pack("!H", packets.checksum(header)) + header[12:]
    return to + mac + struct.pack("!H", _IP) + header + payload


def main() -> None:
    seconds, rate, interface, victim = sys.argv[1:]
    group = overheard(interface, discovery.PROTOCOL, 4)
    adverts = overheard(interface, packets.PROTOCOL, 2)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        s.bind((interface, 0))
        mac = s.getsockname()[4]
        frames = [frame(mac, source, discovery.PROTOCOL, each) for source in (OWN, victim) for each in of_discovery(group)]
        frames += [
            frame(mac, source, packets.PROTOCOL, message, ttl)
            for source in (OWN, victim)
            for message, ttl in of_vrrp(adverts, source)
        ]
        kinds, sent, began = itertools.cycle(frames), 0, time.monotonic()
        while (passed := time.monotonic() - began) < float(seconds):
            while sent < passed * float(rate):
                s.send(next(kinds))
                sent += 1
            time.sleep(_BATCH)
    print(sent)


if __name__ == "__main__":
    main()
