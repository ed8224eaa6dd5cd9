"""Who claims the virtual IP, as a client on its network sees it: one line for each ARP frame that names another owner.

    python -m bench.arpwatch --interface eth0 --address 192.168.120.187 --file arp

Promise: independent of everything that the pair says about itself. Source: RFC 826 (frame), packet(7).

    <CLOCK_BOOTTIME> <MAC>
"""

from __future__ import annotations

import os
import select
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from runtime.clock import boottime

_ETH_P_ARP = 0x0806


@dataclass(frozen=True)
class Claim:
    at: float
    mac: str


def claim_of(frame: bytes) -> tuple[str, str] | None:
    """(address, MAC) that an Ethernet frame with an ARP packet claims; None for all else. A probe (RFC 5227) claims nothing."""
    if len(frame) < 42 or frame[12:22] not in (b"\x08\x06\0\x01\x08\0\x06\x04\0\x01", b"\x08\x06\0\x01\x08\0\x06\x04\0\x02"):
        return None
    sender = socket.inet_ntoa(frame[28:32])
    return None if sender == "0.0.0.0" else (sender, frame[22:28].hex(":"))


def read(path: Path) -> list[Claim]:
    """All complete lines; nothing if there is no such file."""
    try:
        lines = path.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [Claim(float(at), mac) for at, mac in (line.split() for line in lines)]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--interface", default="eth0", show_default=True)
@click.option("--address", required=True, help="The virtual IP.")
@click.option("--file", type=click.Path(path_type=Path), required=True)
@click.option("--seconds", default=600.0, show_default=True, help="Ends by itself after so long.")
def main(interface: str, address: str, file: Path, seconds: float) -> None:
    """Write down who claims ADDRESS, until standard input is closed."""
    end = boottime() + seconds
    owner = ""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as wire, file.open("a", buffering=1) as out:
        wire.bind((interface, _ETH_P_ARP))
        while (left := end - boottime()) > 0:
            readable, _, _ = select.select([wire, sys.stdin], [], [], left)
            if sys.stdin in readable and not os.read(0, 64):
                return
            if wire in readable:
                claim = claim_of(wire.recv(2048))
                if claim is not None and claim[0] == address and claim[1] != owner:
                    owner = claim[1]
                    out.write(f"{boottime():.6f} {owner}\n")


if __name__ == "__main__":
    main()
