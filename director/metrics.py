"""The director's status as numbers for Prometheus. Pure.

Promise: every line is of the text exposition format, version 0.0.4; the same names at each version of the director; an alarm
that stands is a series of its own, with its text, and gone when it is over. Source: docs/protocols.md ("director", ``status``);
Prometheus, "Exposition formats".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Sample = tuple[Mapping[str, object], float]
Family = tuple[str, str, str, Sequence[Sample]]

STATES = ("master", "backup", "scanning", "fault", "init", "stopped")


def measured(status: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, kind, about, samples in _families(status):
        found = [f"director_{name}{_labels(labels)} {value:.10g}" for labels, value in samples]
        if found:
            lines += [f"# HELP director_{name} {about}", f"# TYPE director_{name} {kind}", *found]
    return lines


def _families(status: Mapping[str, Any]) -> Iterator[Family]:
    routers, cluster = status["routers"], status.get("cluster") or {}
    states: list[Sample] = [({**_router(each), "state": s}, each["state"] == s) for each in routers for s in STATES]
    yield "vrrp_state", "gauge", "1 for the state that the virtual router is in here.", states
    yield "vrrp_priority", "gauge", "In force.", [(_router(each), each["effective_priority"]) for each in routers]
    yield "vrrp_changes_total", "counter", "Changes of state.", [(_router(each), each["changes"]) for each in routers]
    for way in ("sent", "received"):
        counted = [(_router(each), each["counters"][way]) for each in routers]
        yield f"vrrp_adverts_{way}_total", "counter", f"Advertisements {way}.", counted
    dropped = [
        ({**_router(each), "reason": reason}, count)
        for each in routers
        for reason, count in each["counters"]["dropped"].items()
    ]
    yield "vrrp_adverts_dropped_total", "counter", "Advertisements that changed nothing.", dropped
    yield "alarms_raised_total", "counter", "Alarms so far.", [({}, status["alarms_raised"])]
    yield "alarms", "gauge", "Alarms that stand.", [({}, len(status["alarms"]))]
    standing = [({"name": each["name"], "text": each["text"]}, each["since"]) for each in status["alarms"]]
    yield "alarm_since_seconds", "gauge", "Since when an alarm stands (seconds since 1970).", standing
    if cluster:
        yield from _of_group(cluster)


def _of_group(cluster: Mapping[str, Any]) -> Iterator[Family]:
    members = cluster["members"]
    well = [(_member(each), each["state"] == "ok") for each in members]
    yield "member_ok", "gauge", "1 while the member serves all its redirects.", well
    for name, about in (("share", "Of the buckets."), ("cpu", "Of its processors."), ("connections", "To its proxy.")):
        yield f"member_{name}", "gauge", about, [(_member(each), each[name]) for each in members]
    ports = [({**_member(each), "redirect": key}, up) for each in members for key, up in each["ports"].items()]
    yield "member_port_up", "gauge", "1 while the redirect's port answers there.", ports
    buckets = [({**_member(each), "redirect": key}, count) for each in members for key, count in each["buckets"].items()]
    yield "member_buckets", "gauge", "Buckets of the redirect.", buckets
    discovery, rules = cluster["discovery"], cluster["plane"]
    for way in ("sent", "received"):
        yield f"discovery_{way}_total", "counter", f"Messages of protocol 253 {way}.", [({}, discovery[way])]
    dropped: list[Sample] = [({"reason": reason}, count) for reason, count in discovery["dropped"].items()]
    yield "discovery_dropped_total", "counter", "Messages of protocol 253 that changed nothing.", dropped
    yield "rules_loaded", "gauge", "1 while the rules are in the kernel.", [({}, rules["loaded"])]
    yield "rules_repaired_total", "counter", "Repairs of what other programs did to them.", [({}, rules["repaired"])]


def _router(router: Mapping[str, Any]) -> dict[str, object]:
    return {"vrid": router["vrid"], "family": router["family"], "interface": router["interface"]}


def _member(member: Mapping[str, Any]) -> dict[str, object]:
    return {"member": member["name"], "ip": member["ip"]}


def _labels(labels: Mapping[str, object]) -> str:
    inside = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
