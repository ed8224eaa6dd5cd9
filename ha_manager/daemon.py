"""``python -m ha_manager.daemon [--foreground]``: starts ha_manager.

Promise: heartbeat hears of a restarted ha_manager before most of it is loaded (``greeting``), also on a busy server: the
priority comes before the imports. Exit status: 0 stopped as asked; 1 failed; 6 not configured. Source: docs/protocols.md
("Processes of a policy server"); design §6.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runtime.priority import REPORTER, hurry

if TYPE_CHECKING:
    from ha_manager.host import Host
    from runtime.service import Service


def main(argv: list[str]) -> None:
    hurry(REPORTER)
    from ha_manager.starting import start

    start("ha_manager", "ha_manager.daemon", argv, lambda host: host.paths.run / "ha_manager.pid", _body)


def _body(own: Service, host: Host) -> int:
    hurry(REPORTER, inherited=False)
    from ha_manager.greeting import Greeting

    greeting = Greeting(str(host.paths.heartbeat_run / "control"))
    from ha_manager.process import body  # loads Postgres's library, which takes most of the time

    return body(own, greeting)


if __name__ == "__main__":
    main(sys.argv[1:])
