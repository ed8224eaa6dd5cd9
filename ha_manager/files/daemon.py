"""``python -m ha_manager.files.daemon MODULE_XML CONF``: started by ha_manager, which holds the other end of standard input.

Promise: ends as soon as that end is closed, however ha_manager died; stands behind everybody else for processors and memory.
Source: ``ha_manager.copier``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ha_manager.config import Config, load
from ha_manager.files.service import Service
from ha_manager.local import addresses
from runtime import syslog
from runtime.errors import ControlError, HaError

NAME = "ha_manager-files"
#: seconds
PREDECESSOR = 5.0


def main(argv: list[str]) -> int:
    module_xml, conf = (Path(word) for word in argv)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # whatever its starter runs with
    os.nice(5)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # ha_manager's; what is to be done comes over the control socket
    config = load(addresses(), module_xml=module_xml, conf=conf)
    level = getattr(logging, config.host.log_level.upper())
    syslog.configure(NAME, foreground=False, facility=config.host.log_facility, level=level)
    for handler in logging.getLogger().handlers:
        handler.lock = threading.RLock()  # several threads log
    for library in ("apscheduler", "paramiko", "pyinotify"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        _service(lambda: load(addresses(), module_xml=module_xml, conf=conf)).run(0)
    except (HaError, OSError) as wrong:
        logging.getLogger(NAME).error("%s", wrong)
        return 1
    return 0


def _service(read: Callable[[], Config]) -> Service:
    """That of a ha_manager that was killed needs a moment to end."""
    end = time.monotonic() + PREDECESSOR
    while True:
        try:
            return Service(read)
        except ControlError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
