"""How a daemon of this package begins: its arguments, the host's configuration, and into the background.

Promise: whoever starts it learns whether it started (``runtime.service``); a configuration that can't be read leaves the
defaults, and is refused by the daemon's body, in words, where its starter reads them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ha_manager.host import Host, load_host
from runtime import service
from runtime.errors import ConfigError


def start(
    name: str,
    module: str,
    argv: list[str],
    pid_file: Callable[[Host], Path],
    body: Callable[[service.Service, Host], int],
) -> NoReturn:
    """Be the daemon; ends this process. ``module``: what follows ``python -m``."""
    unknown = [word for word in argv if word != "--foreground"]
    if unknown:
        sys.exit(f"{name}: unknown argument {unknown[0]}; usage: python -m {module} [--foreground]")
    try:
        host = load_host()
    except ConfigError:
        host = Host()
    service.run(
        name,
        pid_file(host),
        lambda own: body(own, host),
        foreground="--foreground" in argv,
        facility=host.log_facility,
        level=getattr(logging, host.log_level.upper()),
    )
