"""Has anybody changed the ruleset? One question to the kernel, instead of listing everything.

Promise: ``read`` is the ruleset's generation in this network namespace: the same number as before means that nobody changed
anything, no table of any program (0.02 ms; listing three tables takes 15). NftError says that the kernel has no nftables.
Source: linux/netfilter/nf_tables.h, NFT_MSG_GETGEN.
"""

from __future__ import annotations

import os
import socket
import struct

from runtime.nft import NftError

_NETFILTER = 12
_GET_GENERATION, _ERROR = 10 << 8 | 16, 2
_ID = 1


def need_nftables() -> None:
    """NftError if this kernel has none: libnftables would end the process."""
    generation = Generation()
    try:
        generation.read()
    finally:
        generation.close()


class Generation:
    """Belongs to the network namespace it was made in."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        except OSError as error:
            raise NftError(f"this kernel has no netfilter netlink ({error.strerror}): CONFIG_NETFILTER_NETLINK") from error
        self._socket.settimeout(1.0)  # the kernel answers before ``send`` is back
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def read(self) -> int:
        self._socket.send(struct.pack("=IHHII", 20, _GET_GENERATION, 1, 0, 0) + struct.pack("!BBH", 0, 0, 0))
        try:
            data = self._socket.recv(8192)
        except TimeoutError as silent:
            raise NftError("this kernel says nothing about nftables") from silent
        kind = struct.unpack_from("=H", data, 4)[0]
        if kind == _ERROR:
            code = -struct.unpack_from("=i", data, 16)[0]
            raise NftError(f"this kernel has no nftables ({os.strerror(code)}): it needs CONFIG_NF_TABLES")
        at = 20
        while at + 8 <= len(data):
            length, attribute = struct.unpack_from("=HH", data, at)
            if attribute == _ID:
                number: int = struct.unpack_from("!I", data, at + 4)[0]
                return number
            at += max(4, (length + 3) & ~3)
        raise NftError("the kernel's answer has no generation")
