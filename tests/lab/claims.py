"""Who speaks for addresses on an interface, line by line: ``python -m tests.lab.claims INTERFACE ADDRESS…`` in a namespace."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from runtime.arpwatch import ArpWatch, text


class Claims:
    """What was heard so far: (address, MAC, kind)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self._process = process
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._ready.wait(20), "the listener did not start"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "listening\n":
                self._ready.set()
            elif line.endswith("\n"):  # the last one may have been cut short by the end
                address, mac, kind = line.split()
                self.heard.append((address, mac, kind))

    def announced(self, address: str, mac: str) -> int:
        return self.heard.count((address, mac, "announcement"))


@contextlib.contextmanager
def listening(namespace: str, interface: str, *addresses: str) -> Iterator[Claims]:
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.lab.claims", interface, *addresses]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        yield Claims(process)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    watch = ArpWatch(sys.argv[1], sys.argv[2:])
    print("listening", flush=True)
    while True:
        select.select([watch], [], [])
        for claim in watch.drain():
            print(claim.address, text(claim.mac), claim.kind, flush=True)
        time.sleep(0.001)


if __name__ == "__main__":
    main()
