"""What two heartbeats say to each other, one line a frame: ``python -m tests.lab.overhear INTERFACE KEYLINE``.

Run in the network of one of them (``Node.popen`` with ``files="host"``): what leaves and what arrives is printed with all
fields that tell something. ``KEYLINE`` as in authkeys: ``1 sha1 secret``. A ``status`` that only repeats the one before is left
out. Ends with SIGTERM.
"""

from __future__ import annotations

import argparse
import socket
import time

from heartbeat.authkeys import parse
from heartbeat.frames import FrameError, Value, decode

PORT = 694
_ALL = 3  # ETH_P_ALL: also what leaves
_BORING = {"t", "src", "ts", "ld", "ttl", "protocol", "auth", "srcuuid", "destuuid", "x_v"}


def line(fields: dict[str, Value]) -> str:
    rest = " ".join(
        f"{name}={value!r}" if isinstance(value, bytes) else f"{name}={value}"
        for name, value in fields.items()
        if name not in _BORING
    )
    return f"{fields.get('src')}: {fields.get('t')} {rest}"


def payload(packet: bytes) -> bytes | None:
    """Of an IPv4 packet to heartbeat's port."""
    header = (packet[0] & 15) * 4
    if packet[0] >> 4 != 4 or packet[9] != 17 or packet[header + 2 : header + 4] != PORT.to_bytes(2, "big"):
        return None
    return packet[header + 8 :]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.overhear", description="What two heartbeats say to each other.")
    parser.add_argument("interface", help="of this network namespace")
    parser.add_argument("keyline", help="as in authkeys: 1 sha1 secret")
    given = parser.parse_args()
    keyring = parse(f"auth 1\n{given.keyline}\n", compatible=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL)) as s:
        s.bind((given.interface, _ALL))
        before: dict[object, str] = {}
        while True:
            datagram = payload(s.recv(65536))
            if datagram is None:
                continue
            try:
                fields = decode(datagram, keyring)
            except FrameError as error:
                print(f"{time.time():.3f} REFUSED {error} {datagram[:60]!r}", flush=True)
                continue
            told = {name: value for name, value in fields.items() if name not in {"seq", "ld", "ts"}}
            if fields.get("t") == "status" and before.get(fields.get("src")) == str(told):
                continue
            if fields.get("t") == "status":
                before[fields.get("src")] = str(told)
            print(f"{time.time():.3f} {line(fields)}", flush=True)


if __name__ == "__main__":
    main()
