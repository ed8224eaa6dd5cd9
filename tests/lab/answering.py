"""Which MACs answer for addresses of either family: ``python -m tests.lab.answering INTERFACE ADDRESS…``; a line for each."""

from __future__ import annotations

import select
import sys
import time

from runtime.arpwatch import ANSWER, ArpWatch, text

WAIT = 0.25


def main() -> None:
    addresses = sys.argv[2:]
    watch = ArpWatch(sys.argv[1], addresses)
    found: dict[str, set[str]] = {each: set() for each in addresses}
    end = time.monotonic() + WAIT
    for each in addresses:
        watch.probe(each)
    while (left := end - time.monotonic()) > 0:
        select.select([watch], [], [], left)
        for claim in watch.drain():
            if claim.kind == ANSWER or ":" in claim.address:  # who is asked by nobody answers everybody
                found[claim.address].add(text(claim.mac))
    for address, macs in found.items():
        print(address, *sorted(macs))


if __name__ == "__main__":
    main()
