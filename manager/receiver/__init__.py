"""The receiving side of the configuration's way: what notifiers send becomes this device's conf_ready, whole or not at all.

``python -m manager.receiver``, a child process of the Manager on every device (design §7; Trustwave SWG 11.8 §2, §2.3).
"""

from __future__ import annotations

import sys
from pathlib import Path


def argv(root: Path) -> list[str]:
    """As the Manager starts it: it ends with its Manager."""
    return ["setpriv", "--pdeathsig=TERM", sys.executable, "-P", "-m", "manager.receiver", "--root", str(root)]
