"""Whether an operator has suspended high availability (`ha suspend`): heartbeat's word.

Promise: takes a second at most; without an answer nothing is suspended. Source: docs/protocols.md ("heartbeat").
"""

from __future__ import annotations

from pathlib import Path

from runtime.control import Client
from runtime.errors import ControlError


def suspended(control: Path) -> bool:
    """``control``: heartbeat's socket."""
    try:
        with Client(control, 1.0, name="heartbeat") as heartbeat:
            return "suspended" in heartbeat.request("status").get("alarms", {})
    except ControlError:
        return False
