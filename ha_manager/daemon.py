"""``python -m ha_manager.daemon [--foreground]``: starts ha_manager.

Promise: heartbeat hears of a restarted ha_manager before most of it is loaded (``greeting``). Exit status: 0 stopped as
asked; 1 failed; 6 not configured. Source: docs/protocols.md ("Processes of a policy server"); design §6.
"""

from __future__ import annotations

import logging
import sys

from ha_manager.greeting import Greeting
from ha_manager.host import Host, load_host
from runtime import service
from runtime.errors import ConfigError


def main(argv: list[str]) -> None:
    unknown = [word for word in argv if word != "--foreground"]
    if unknown:
        sys.exit(f"ha_manager: unknown argument {unknown[0]}; usage: python -m ha_manager.daemon [--foreground]")
    try:
        host = load_host()
    except ConfigError:
        host = Host()  # the process refuses it again, and says so where its starter reads it
    service.run(
        "ha_manager",
        host.paths.run / "ha_manager.pid",
        lambda own: _body(own, host),
        foreground="--foreground" in argv,
        facility=host.log_facility,
        level=getattr(logging, host.log_level.upper()),
    )


def _body(own: service.Service, host: Host) -> int:
    greeting = Greeting(str(host.paths.heartbeat_run / "control"))
    from ha_manager.process import body  # loads Postgres's library, which takes most of the time

    return body(own, greeting)


if __name__ == "__main__":
    main(sys.argv[1:])
