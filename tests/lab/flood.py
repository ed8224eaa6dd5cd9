"""A hostile neighbour: ``python -m tests.lab.flood SECONDS RATE TARGET SOURCE LISTEN_ON PEER`` in a namespace beside the pair.

It overhears the pair's own frames on LISTEN_ON for a moment, then sends RATE datagrams a second to TARGET:694, each of another
kind: noise, truncated, oversized, changed by a byte, under a wrong key, without any, in the classic form, and the very
frames that it overheard. SOURCE: ``own`` (its own address: a stranger's) or ``peer`` (PEER's address, forged). Prints how
many it sent.
"""

from __future__ import annotations

import itertools
import socket
import struct
import sys
import time

from heartbeat.frames import HEAD, TAIL, Key, Keyring, Method, encode
from heartbeat.model import Boot, Epoch, Message, Phase
from heartbeat.wire import Header, fields
from tests.lab.overhear import payload

PORT = 694
_BATCH = 0.01


def overheard(interface: str, count: int = 20, limit: float = 5.0) -> list[bytes]:
    found: list[bytes] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as s:
        s.bind((interface, 3))
        s.settimeout(limit)
        while len(found) < count:
            frame = payload(s.recv(65536))
            if frame is not None and frame.startswith(HEAD):
                found.append(frame)
    return found


def hostile(true: list[bytes]) -> list[bytes]:
    wrong = Keyring.of(1, [Key(1, Method.SHA256, b"guessed")])
    unknown = Keyring.of(9, [Key(9, Method.SHA256, b"guessed")])
    claims = fields(Message("vs-28", Boot(2**40, 1), 9, phase=Phase.ACTIVE, epoch=Epoch(99, "vs-28")), Header(bytes(16)))
    forged = encode(claims, wrong)
    bare = forged[: forged.rfind(TAIL) + len(TAIL)]
    kinds = [
        b"", b"\0", b"noise " * 20, HEAD, HEAD + TAIL, HEAD + b"9" * 900 + TAIL, forged, encode(claims, unknown), bare,
        bare + b"10:1 278d5300,", b">>>\nt=status\nst=dead\n<<<\n", HEAD + bytes(30000), HEAD + b"x" * 15000 + TAIL,
    ]  # fmt: skip
    for frame in true:
        middle = len(frame) // 2
        kinds += [frame, frame[:-1], frame[:middle], frame[:middle] + bytes([frame[middle] ^ 1]) + frame[middle + 1 :]]
    return kinds


def sender(source: str, target: str, peer: str) -> tuple[socket.socket, bytes]:
    """A socket, and what stands before each datagram (IP and UDP headers if the source is forged)."""
    if source == "own":
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM), b""
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    return raw, struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 17, 0, socket.inet_aton(peer), socket.inet_aton(target))


def main() -> None:
    seconds, rate, target, source, listen_on, peer = sys.argv[1:]
    kinds = itertools.cycle(hostile(overheard(listen_on)))
    s, header = sender(source, target, peer)
    sent, began = 0, time.monotonic()
    while (passed := time.monotonic() - began) < float(seconds):
        while sent < passed * float(rate):
            datagram = next(kinds)
            if header:
                datagram = header + struct.pack("!HHHH", PORT, PORT, 8 + len(datagram), 0) + datagram
                if len(datagram) > 1500:  # a raw socket doesn't fragment
                    datagram = datagram[:1500]
            try:
                s.sendto(datagram, (target, PORT))
            except OSError:
                time.sleep(0.001)  # the interface's queue is full
            sent += 1
        time.sleep(_BATCH)
    print(sent)


if __name__ == "__main__":
    main()
