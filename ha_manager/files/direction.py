"""Who may copy to whom: the direction follows the epoch.

Promise: pure. A server takes files only while it is passive, and only from the active of an epoch that is not older than any
that it has taken files from or knows of; so an active that was cut off and comes back overwrites nothing of its successor's.
It sends only while it is active, and only when what it had staged itself is in place. Source: design §4 ("higher wins"),
issue "Replicated files".
"""

from __future__ import annotations

from dataclasses import dataclass

Epoch = tuple[int, str]
NONE: Epoch = (0, "")


@dataclass(frozen=True)
class Standing:
    """What this server is, as ha_manager said last; ``placed``: what was staged here is in place, or needn't be."""

    role: str = "unknown"
    epoch: Epoch = NONE
    placed: bool = False


def why_not_send(own: Standing) -> str:
    """ "" if this server's files may be sent to the other one."""
    if own.role != "active":
        return f"this server is {own.role}, not active"
    if not own.placed:
        return "what the other server had sent before is being put in place first"
    return ""


def why_not_take(own: Standing, newest: Epoch, theirs: Epoch) -> str:
    """ "" if files of the active of epoch ``theirs`` may be staged; ``newest``: of what is staged already."""
    if own.role != "passive":
        return f"this server is {own.role}, not passive"
    known = max(own.epoch[0], newest[0])
    if theirs[0] < known:
        return f"epoch {theirs[0]}/{theirs[1]} is over: epoch {known} is known here"
    if theirs[0] == newest[0] and theirs[1] != newest[1]:
        return f"two servers call themselves active in epoch {theirs[0]}: {newest[1]}, whose files are staged, and {theirs[1]}"
    return ""
