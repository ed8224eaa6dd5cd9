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
    import logging

    from ha_manager.host import Host, load_host
    from runtime import service
    from runtime.errors import ConfigError

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


def _body(own: Service, host: Host) -> int:
    hurry(REPORTER, inherited=False)
    from ha_manager.greeting import Greeting

    greeting = Greeting(str(host.paths.heartbeat_run / "control"))
    from ha_manager.process import body  # loads Postgres's library, which takes most of the time

    return body(own, greeting)


if __name__ == "__main__":
    main(sys.argv[1:])
