"""Which bucket a client belongs to: the kernel's ``jhash`` again, so that a command can say what the kernel will do.

Promise: ``bucket`` is what ``jhash … mod N seed S`` of nftables gives for the same packet (checked against the kernel by
tests/lab). Source: include/linux/jhash.h (Bob Jenkins's lookup3), net/netfilter/nft_hash.c.
"""

from __future__ import annotations

import ipaddress

_ALL = 0xFFFFFFFF
_INITIAL = 0xDEADBEEF
#: (changed, by, rotated) of __jhash_mix and __jhash_final, as they stand there
_MIX = ((0, 2, 4, 1), (1, 0, 6, 2), (2, 1, 8, 0), (0, 2, 16, 1), (1, 0, 19, 2), (2, 1, 4, 0))
_FINAL = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))


def bucket(address: str, count: int, seed: int, port: int | None = None) -> int:
    """The bucket of ``count`` of a client at ``address``; with ``port`` where buckets go by address and source port."""
    data = ipaddress.ip_address(address).packed
    if port is not None:
        data += port.to_bytes(2, "big") + b"\0\0"  # a port fills a register of four bytes
    return jhash(data, seed) * count >> 32


def jhash(data: bytes, seed: int) -> int:
    """The kernel's jhash() on a little-endian machine."""
    words = [(_INITIAL + len(data) + seed) & _ALL] * 3
    at = 0
    while len(data) - at > 12:
        _add(words, data[at : at + 12])
        for changed, by, bits, sum_ in _MIX:
            words[changed] = (words[changed] - words[by]) & _ALL ^ _rotated(words[by], bits)
            words[by] = (words[by] + words[sum_]) & _ALL
        at += 12
    if at == len(data):
        return words[2]
    _add(words, data[at:])
    for changed, by, bits in _FINAL:
        words[changed] = ((words[changed] ^ words[by]) - _rotated(words[by], bits)) & _ALL
    return words[2]


def _add(words: list[int], data: bytes) -> None:
    for i in range(3):
        words[i] = (words[i] + int.from_bytes(data[4 * i : 4 * i + 4], "little")) & _ALL


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _ALL
