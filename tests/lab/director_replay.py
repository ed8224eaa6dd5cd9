"""Overhears a group's broadcasts and sends them again, later: ``python -m tests.lab.director_replay INTERFACE FILE [SOURCE]``.

Without SOURCE, four are written to FILE; else those in FILE are sent, each ten times, from SOURCE's address.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from director import discovery
from tests.lab.director_flood import frame, overheard


def main() -> None:
    interface, file = sys.argv[1], Path(sys.argv[2])
    if len(sys.argv) == 3:
        file.write_text(json.dumps([each.hex() for each in overheard(interface, discovery.PROTOCOL, 4)]))
        return
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        s.bind((interface, 0))
        mac = s.getsockname()[4]
        for each in json.loads(file.read_text()) * 10:
            s.send(frame(mac, sys.argv[3], discovery.PROTOCOL, bytes.fromhex(each)))


if __name__ == "__main__":
    main()
