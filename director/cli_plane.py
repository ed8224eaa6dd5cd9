"""``director``'s commands about clients and nodes: drain, explain, check, key; and their part of ``director status``.

Promise: as ``cli``. ``check`` ends with 1 if it found anything. Source: design §8; the reference's "Common Scenarios".
"""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from director.config import load
from director.settings import Config
from runtime.errors import NotRunning

Ask = Callable[..., dict[str, Any]]
_ANY = {"0.0.0.0", "::"}
_LISTEN = "0A"


def add_to(main: click.Group, ask: Ask) -> None:
    """The commands, in ``main``."""

    @main.command()
    @click.argument("node", default="")
    @click.option("--undo", is_flag=True, help="Let it have clients again.")
    def drain(node: str, undo: bool) -> None:
        """Give NODE (name or address; this one if left out) no new clients; what it serves goes on until it ends.

        Its buckets move to the others, a few at a time. It stays drained, also over a restart, until --undo.

        Example: director drain scan2
        """
        answer = ask("drain", {"node": node, "on": not undo})
        click.echo(f"{answer['node']} {'takes clients again' if undo else 'drains'}: director status shows how far it is")

    @main.command()
    @click.argument("client")
    @click.option("--port", type=click.IntRange(1, 65535), help="The client's own port, where clients go by address and port.")
    def explain(client: str, port: int | None) -> None:
        """Which node serves the client at that address, and why.

        Example: director explain 10.1.1.100
        """
        for line in ask("explain", {"client": client, "port": port})["lines"]:
            click.echo(line)

    @main.command()
    def check() -> None:
        """Look for the common mistakes of a proxy group. Exit status 1 if there is one.

        Example: director check
        """
        findings = _local(load())
        try:
            findings += ask("check")["findings"]
            findings += [alarm["text"] for alarm in ask("status")["alarms"]]
        except NotRunning as stopped:
            findings.append(f"{stopped}: only the configuration was looked at")
        for finding in dict.fromkeys(findings):
            click.echo(finding)
        wrong = [each for each in findings if not each.startswith("note: ")]
        if not wrong:
            click.echo("no mistake was found")
        sys.exit(1 if wrong else 0)

    @main.command()
    def key() -> None:
        """Print a new key for a group. Every member has the same one.

        Example: (umask 077; director key > /etc/director/lb.key)
        """
        click.echo(secrets.token_urlsafe(32))


def render_cluster(cluster: Mapping[str, Any]) -> list[str]:
    """Members, buckets, ports in words."""
    if not cluster:
        return []
    director = cluster["director"]
    shown = f"{director['name']} {director['ip']}" if director else "none is heard"
    lines = [f"director of load balancing ID {cluster['lbid']}: {shown}"]
    for member in cluster["members"]:
        lines += _member(member)
    for service in cluster["services"]:
        comment = f" ({service['comment']})" if service["comment"] else ""
        buckets = ", ".join(f"{name} {count}" for name, count in service["buckets"]) or "none known"
        moving = f"; {service['moving']} about to move" if service["moving"] else ""
        ports = ",".join(map(str, service["ports"]))
        udp = " udp" if service["transport"] == "udp" else ""
        lines.append(f"{service['protocol']}{udp} {ports} → {service['to']}{comment}: buckets {buckets}{moving}")
    discovery = cluster["discovery"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(discovery["dropped"].items())) or "none"
    lines.append(f"protocol 253: {discovery['sent']} sent, {discovery['received']} received; dropped: {dropped}")
    rules = cluster["plane"]
    state = rules["problem"] or ("loaded" if rules["loaded"] else "not needed: no port redirect")
    lines.append(f"rules: {state}" + (f", repaired {rules['repaired']} times" if rules["repaired"] else ""))
    return lines


def _member(member: Mapping[str, Any]) -> list[str]:
    here = ", this node" if member["self"] else ""
    dead = sorted(key for key, well in member["ports"].items() if not well)
    text = f"  {member['name']} {member['ip']} ({member['role']}{here}): {member['state']}"
    text += f", share {member['share']:.1%}, weight {member['weight']:g}, cpu {member['cpu']:.0%}"
    text += f", {member['connections']} connections"
    if not member["self"]:
        text += f", heard {member['age']:.1f} s ago"
    problems = [f"    does not answer: {key}" for key in dead]
    return [text, *problems, *([f"    {member['problem']}"] if member["problem"] else [])]


def _local(config: Config) -> list[str]:
    """What the sockets of this node say about the proxy's ports."""
    found = []
    bound = listeners()
    for redirect in config.redirects:
        if redirect.transport != "tcp" or redirect.check.kind == "none":
            continue
        addresses = bound.get(redirect.to, set())
        if not addresses:
            found.append(f"nobody listens on port {redirect.to} ({redirect}): start the proxy, or remove the redirect")
        elif not addresses & _ANY:
            shown = ", ".join(sorted(addresses))
            found.append(f"port {redirect.to} is bound to {shown}: the proxy must listen on all addresses (0.0.0.0)")
    return found


def listeners(proc: Path = Path("/proc/net")) -> dict[int, set[str]]:
    """Port → the addresses that somebody listens on (TCP)."""
    found: dict[int, set[str]] = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            lines = (proc / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] != _LISTEN:
                continue
            address, port = words[1].split(":")
            raw = bytes.fromhex(address)
            packed = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))  # words of this machine's order
            found.setdefault(int(port, 16), set()).add(socket.inet_ntop(family, packed))
    return found
