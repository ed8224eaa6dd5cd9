"""``ha explain``: what heartbeat knows of the servers and what Postgres knows of the databases, joined; the same as data.

Promise: pure; true of the moment in which the daemons were asked; what nobody said is said to be unknown. "Lost" means
acknowledged to a client and not on the server that serves afterwards.
Source: issue "Postgres: no acknowledged write lost" ("Explain"); ``heartbeat.explain`` has
the sentences on who would take over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.sizes import size

Found = Mapping[str, Any]


def data(found: Found) -> dict[str, Any]:
    """For ``ha show --json``: ``mode``, the passive's lag, and what the death of either server now would mean."""
    status, manager = found["heartbeat"], found["ha_manager"]
    fence = status.get("replication", {})
    behind = manager.get("behind") or {}
    active = found["role"] == "active"
    mode = fence.get("mode", "unknown") if active or status.get("in_sync") else "unknown"
    return {
        "mode": mode,
        "configured": fence.get("configured", {}),
        "passive_streams": _streams(found),
        "lag_bytes": behind.get("bytes") if active else fence.get("lag"),
        "lag_seconds": behind.get("seconds"),
        "lag_transactions": behind.get("transactions"),
        "if_active_died": _if_active_died(found, mode, active, behind),
        "if_passive_died": _if_passive_died(found, mode),
    }


def _streams(found: Found) -> bool:
    manager = found["ha_manager"]
    if found["role"] == "active":
        return bool(manager.get("behind"))
    return bool((manager.get("database", {}).get("receiver") or {}).get("status") == "streaming")


def _if_active_died(found: Found, mode: str, active: bool, behind: Mapping[str, Any]) -> dict[str, Any]:
    """``lost``: of what is acknowledged at this moment, as far as this server can tell; None: unknown."""
    status = found["heartbeat"]
    fit = bool(status.get("peer_state", {}).get("fit")) if active else bool(status.get("fit"))
    told: dict[str, Any] = {"taken_over": fit, "by": found["peer"] if active else found["node"], "lost": None}
    if not fit:
        return told | {"lost": {"bytes": 0, "seconds": 0.0, "transactions": 0} if active else None}
    if mode == "synchronous":
        return told | {"lost": {"bytes": 0, "seconds": 0.0, "transactions": 0}}
    if active:
        return told | {"lost": dict(behind) if behind else None}
    return told | {"lost": {"bytes": status.get("replication", {}).get("lag"), "seconds": None, "transactions": None}}


def _if_passive_died(found: Found, mode: str) -> dict[str, Any]:
    """Nothing is lost by that; but commits may wait for it. ``waits``: seconds, None: until somebody decides."""
    fence = found["heartbeat"].get("replication", {})
    if mode == "unknown":
        return {"waits": None}
    if mode != "synchronous":
        return {"waits": 0.0}
    return {"waits": None if fence.get("release_only") else fence.get("solo_after")}


def lines(found: Found) -> list[str]:
    """Heartbeat's sentences, and then those on the databases."""
    said = [line for line in found["explain"] if not line.startswith("Alarm: ")]
    alarms = [line for line in found["explain"] if line.startswith("Alarm: ")]
    return [*said, *replication(found), *alarms]


def replication(found: Found) -> list[str]:
    """Postgres's view: in sync or not, how far behind, what is lost by a failover now."""
    manager = found["ha_manager"]
    if not manager:
        return ["What Postgres says is not known: ha_manager does not answer."]
    if manager.get("postgres") == "primary":
        return [*_primary(found), *peers_word(found)]
    # Why an active takes no writes now heartbeat says.
    return peers_word(found) if found["role"] == "active" else _standby(found)


def peers_word(found: Found) -> list[str]:
    """Why the passive's database could not serve, as its ha_manager says; nothing if it could, or can't be asked."""
    session = found["ha_manager"].get("session", {})
    # What it said last may be a second old: of one that heartbeat calls fit by now it is over.
    fit = found["heartbeat"].get("peer_state", {}).get("fit")
    because = session.get("state", {}).get("because") if session.get("connected") and not fit else ""
    return [f"{found['peer']} says: {because}."] if because else []


def _primary(found: Found) -> list[str]:
    manager, peer = found["ha_manager"], found["peer"]
    mode = found["heartbeat"].get("replication", {}).get("mode", "solo")
    # Of one that could not take over heartbeat says what a crash means, and `ha failover` is refused.
    fit = bool(found["heartbeat"].get("peer_state", {}).get("fit"))
    behind = manager.get("behind")
    lag = _lag(behind) if behind else ""
    if mode == "synchronous":
        if not behind:
            return [f"{peer} was in sync, but does not stream: no commit is acknowledged without it."]
        state = "holds the whole log at this moment" if not lag else f"lacks {lag}, of which nothing is acknowledged yet"
        failover = " A failover now would lose nothing." if fit else ""
        return [f"{peer} is in sync: it holds every acknowledged commit, and {state}.{failover}"]
    if not behind:
        alone = manager.get("facts", {}).get("beyond", 0)
        since = f": up to {_transactions(alone)} since epoch {_epoch(found)} began" if alone else ""
        return [f"{peer} does not stream. It lacks what is written here{since}; all of that would be lost if it had to serve."]
    held = "holds the whole log at this moment" if not lag else f"lacks {lag}"
    if mode == "asynchronous":
        lost = "nothing" if not lag else "up to that"
        crash = f" A crash now would lose {lost}; `ha failover` would lose nothing, because it waits for the passive."
        return [f"{peer} follows asynchronously and {held}.{crash if fit else ''}"]
    return [f"{peer} streams and {held}, but is not in sync yet: no commit waits for it, and it does not take over."]


def _standby(found: Found) -> list[str]:
    database = found["ha_manager"].get("database", {})
    receiver = database.get("receiver") or {}
    peer = found["peer"]
    if found["ha_manager"].get("replication") == "copying":
        said = found["ha_manager"].get("facts", {}).get("because") or "the database is being copied"
        return [f"{said[:1].upper()}{said[1:]}."]
    if receiver.get("status") != "streaming":
        return [f"This database does not stream from {peer}: whatever is written there since is not here."]
    replayed = int(database.get("replayed", -1))
    unapplied = max(0, int(database.get("lsn", -1)) - replayed) if replayed >= 0 else 0
    held = " and holds every commit that was acknowledged there"
    if not found["heartbeat"].get("in_sync"):
        held = " and is not in sync"
    elif found["heartbeat"].get("replication", {}).get("mode") == "asynchronous":
        held = ""  # what is lacking heartbeat says: two looks at what changes all the time would contradict each other
    late = f"; {size(unapplied)} of its log are not applied yet, which a takeover would wait for" if unapplied > 2**20 else ""
    return [f"This database streams from {peer}{held}{late}."]


def _lag(behind: Mapping[str, Any]) -> str:
    if not behind["bytes"]:
        return ""
    parts = [f"{size(behind['bytes'])} of log"]
    if behind["seconds"] is not None:
        parts.append(f"{behind['seconds']:.1f} s")
    if behind["transactions"] is not None:
        parts.append(f"up to {_transactions(behind['transactions'])}")
    return ", ".join(parts)


def _transactions(count: int) -> str:
    return f"{count} transaction{'' if count == 1 else 's'}"


def _epoch(found: Found) -> str:
    number, node = found["heartbeat"].get("epoch", [0, ""])
    return f"{number}/{node or '-'}"
