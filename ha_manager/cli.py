"""``ha``: the command of operators. (``ha amIactive`` and ``ha status`` are answered by /usr/bin/ha itself, in shell.)

Promise: an error says what to do next; nothing that can't be undone happens without a question or ``--force``. Imports are
lazy: each command loads what it needs. Exit status: 0 done; 1 refused or failed; 2 wrong usage; 3 not running, or not known;
6 the configuration can't be used (nothing was changed). Source: Trustwave §2.2.2; design §6; docs/protocols.md.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ha_manager import __version__
from ha_manager.cli_diverged import diverged
from ha_manager.cli_files import before_failover, files
from ha_manager.cli_logs import logs
from ha_manager.cli_reseed import reseed
from ha_manager.commandline import FAILED, NOT_CONFIGURED, NOT_RUNNING, AnyCase, fail, need_root, reached, say
from runtime.errors import ControlError, HaError, Refused

if TYPE_CHECKING:
    from ha_manager.config import Config, Reach, Reachable

FAILOVER_LIMIT = 90.0
#: for what the passive lacks of replicated files before that
FILES_LIMIT = 10.0
#: a successor that has not been heard for so long has died (seconds)
SUCCESSOR_LIMIT = 3.0
#: a heartbeat that died is started again within this time (seconds)
BACK_LIMIT = 10.0


@click.group(cls=AnyCase, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ha_manager")
def main() -> None:
    """High availability of this policy server.

    Names in any case. Exit status: 0 done; 1 refused or failed; 2 wrong usage; 3 not running, or not known; 6 the configuration
    can't be used (nothing was changed).
    """


# --- on and off -------------------------------------------------------------------------------------------------------------


@main.command(short_help="Turn HA on here: check, configure, start.")
def start() -> None:
    """Check everything, configure heartbeat and Postgres, start them.

    May be run again at any time. With wrong configuration nothing is changed (exit status 6).

    Example: ha start
    """
    need_root()
    from ha_manager import turning

    turning.start(say)


@main.command(short_help="Turn HA off here; the peer does not take over.")
def stop() -> None:
    """Turn HA off on this server. The peer is told and does not take over.

    Postgres stays: plain and writable on the active, stopped on the passive. To hand the service over, use `ha failover` first.

    Example: ha stop
    """
    need_root()
    from ha_manager import turningoff

    turningoff.stop(say)


@main.command(short_help="Restart heartbeat; roles stay.")
def restart() -> None:
    """Restart heartbeat within its lease: no failover.

    Example: ha restart
    """
    need_root()
    from ha_manager import turning

    config = reached()
    before = turning.heartbeat(config, "status")
    if wrong := turning.heartbeat_refuses(config):
        fail(f"{wrong}\nnothing was changed: heartbeat runs on with what it had read before", NOT_CONFIGURED)
    turning.restart_heartbeat(config)
    settled = ("active",) if before["role"] == "active" else ("passive",)
    after = _when(config, lambda status: status["phase"] in settled, 5.0) or _when(config, lambda status: True, 5.0)
    if after is None:
        fail("heartbeat is not back; `manager-ctl status` and the system log say why", FAILED)
    say(f"heartbeat runs again: {after['role']} (was {before['role']}), because {after['because']}")
    if after["role"] != before["role"]:
        sys.exit(FAILED)


@main.command("status", short_help="Print 1 if heartbeat runs here, else 0.")
def status() -> None:
    """Print 1 if heartbeat runs on this server, else 0 (exit status 0, 3).

    Example: ha status
    """
    from runtime.pidfile import find

    found = find("/run/heartbeat/heartbeat.pid")
    say("1" if found else "0")
    sys.exit(0 if found else NOT_RUNNING)


@main.command("amIactive", short_help="Print 1 if this server is active, else 0.")
def am_i_active() -> None:
    """Print 1 if this server is the active one, else 0 (exit status 0; 1 passive; 3 unknown).

    Example: ha amIactive && run-the-report
    """
    from ha_manager.local import role_line
    from runtime.clock import boottime

    line = role_line(Path("/run/heartbeat"))
    role = line.role if line is not None and line.expires > boottime() else ""
    say("1" if role == "active" else "0")
    sys.exit({"active": 0, "passive": 1}.get(role, NOT_RUNNING))


# --- changes of role --------------------------------------------------------------------------------------------------------


@main.command(short_help="Hand over to the passive, without loss.")
@click.option("--force", is_flag=True, help="Also if the passive is not fit; what it lacks is lost.")
def failover(force: bool) -> None:
    """Hand over to the passive: a planned change without loss. Only on the active.

    Refused, with the reason, when the passive could not take over. Replicated files that it lacks are copied first, for ten
    seconds at most.

    Example: ha failover
    """
    need_root()
    from ha_manager import turning

    config = reached()
    before = turning.heartbeat(config, "status")
    if before["role"] != "active":
        fail(not_active(before, config.peer), FAILED)
    if force and not before["peer_state"]["contact"]:
        fail(f"{config.peer} is not heard, so nobody would be active; `ha stop` turns HA off here", FAILED)
    if lacking := before_failover(FILES_LIMIT):
        say(lacking)
    began = time.monotonic()
    try:
        say(turning.heartbeat(config, "standby", {"by": "ha failover", "force": force}, 20.0).get("text", "accepted"))
    except Refused as wrong:
        fail(f"{wrong}{_peers_word(config)}", FAILED)
    said = ""
    while time.monotonic() - began < FAILOVER_LIMIT:
        now = _amid_failover(config, BACK_LIMIT)
        if now["because"] != said:
            said = now["because"]
            say(f"{time.monotonic() - began:5.2f} s  {now['phase']}: {said}")
        if now["role"] == "passive" and now["peer_state"]["phase"] == "active":
            say(f"{time.monotonic() - began:5.2f} s  {config.peer} is active")
            return
        if now["phase"] == "active":
            fail(f"no failover: {now['because']}", FAILED)
        if _successor_gone(now):
            fail(f"{config.peer} is not heard any more. {_explained(config)}", FAILED)
        time.sleep(0.05)
    fail(f"not finished after {FAILOVER_LIMIT:g} s; `ha show` on both servers says where it stands", FAILED)


def not_active(status: dict[str, Any], peer: str) -> str:
    """Why there is nothing to hand over here, and where there is."""
    theirs = status["peer_state"]
    elsewhere = f"run it on {peer}" if theirs["contact"] and theirs["phase"] == "active" else "`ha explain` says who is to be"
    return f"this server is {status['phase']}, not active; {elsewhere}"


def _amid_failover(config: Reachable, limit: float) -> dict[str, Any]:
    """Heartbeat's status. One that died meanwhile is started again by the Manager; the failover goes on without it."""
    from ha_manager import turning

    end = time.monotonic() + limit
    while True:
        try:
            return turning.heartbeat(config, "status")
        except ControlError as wrong:
            if time.monotonic() > end:
                fail(f"handing over had begun; now {wrong}. `ha show` on {config.peer} says whether it is active", FAILED)
        time.sleep(0.1)


def _successor_gone(status: dict[str, Any]) -> bool:
    """Nothing more will come of this failover by itself. (Who comes back for a silent successor, or may yet, is waited for.)"""
    peer = status["peer_state"]
    comes_back = status.get("returns") or status["phase"] == "standing-down"
    waited = SUCCESSOR_LIMIT * (4 if comes_back else 1)
    return status["role"] == "passive" and not peer["contact"] and (peer["heard_ago"] or 0.0) > waited


def _peers_word(config: Config | Reach) -> str:
    """Heartbeat knows that the peer could not take over; why, only the peer's ha_manager."""
    from ha_manager import explaining, showing

    return "".join(f". {said}" for said in explaining.peers_word(showing.collect(config)))


def _explained(config: Reachable) -> str:
    from ha_manager import turning

    try:
        return " ".join(turning.heartbeat(config, "explain")["lines"])
    except HaError:
        return "`ha show` on both servers says where it stands"


@main.command(short_help="No takeover and no failover until `ha resume`.")
def suspend() -> None:
    """Suspend takeovers and planned changes on both servers (maintenance).

    Example: ha suspend
    """
    _ask("suspend")


@main.command()
def resume() -> None:
    """End `ha suspend`, or a suspension after flapping.

    Example: ha resume
    """
    _ask("resume")


def _ask(do: str) -> None:
    need_root()
    from ha_manager import turning

    say(str(turning.heartbeat(reached(), do, {"by": f"ha {do}"}, 10.0).get("text", "done")))


@main.command(short_help="Make this server active: the other is gone for good.")
@click.option("--force", is_flag=True, help="Don't ask.")
def activate(force: bool) -> None:
    """Make this server active although the peer can't be asked. The override for when it is gone for good.

    Says what could be lost, and asks.

    Example: ha activate
    """
    need_root()
    from ha_manager import turning
    from runtime.errors import Refused

    config = reached()
    was_active = turning.heartbeat(config, "status")["phase"] == "active"
    if not force:
        try:
            turning.heartbeat(config, "activate", {"by": "ha activate", "force": False}, 10.0)
        except Refused as risk:
            if not _may_activate(turning.heartbeat(config, "status")):
                fail(str(risk), FAILED)
            say(str(risk))
        if not sys.stdin.isatty():
            fail("not confirmed; `ha activate --force` does it without a question", FAILED)
        click.confirm(f"Make this server active? Only if {config.peer} is off and stays off until it is a passive", abort=True)
    say(str(turning.heartbeat(config, "activate", {"by": "ha activate", "force": True}, 10.0).get("text", "accepted")))
    now = _when(config, lambda status: activated(status, was_active), 60.0)
    if now is None:
        fail("not active yet; `ha explain` says why", FAILED)
    say(f"this server is active: {now['because']}")


def activated(status: dict[str, Any], was_active: bool) -> bool:
    """What was asked for is there. One that was active, and waited for its peer, goes on alone."""
    return status["phase"] == "active" and (not was_active or bool(status["solo"]))


def _may_activate(status: dict[str, Any]) -> bool:
    """Heartbeat would do it if forced to; where it wouldn't, there is nothing to confirm."""
    peer = status["peer_state"]
    heard = peer["contact"] and peer["phase"] in ("opening", "promoting", "active", "preparing")
    return status["role"] != "active" and not heard


def _when(config: Reachable, holds: Callable[[dict[str, Any]], bool], limit: float) -> dict[str, Any] | None:
    """Heartbeat's status as soon as ``holds``; None after ``limit`` seconds."""
    from ha_manager import turning

    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            now = turning.heartbeat(config, "status")
            if holds(now):
                return now
        except HaError:
            pass
        time.sleep(0.05)
    return None


# --- looking ----------------------------------------------------------------------------------------------------------------


@main.command(short_help="Everything about this pair, in words.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(as_json: bool) -> None:
    """Everything about this pair, in words. While module.xml can't be used (exit status 6), what the daemons say, all the same.

    Example: ha show --json | jq .role
    """
    from ha_manager import showing

    found = showing.collect(reached())
    if as_json:
        say(json.dumps(found, indent=2))
    else:
        showing.print_all(found)
    if found["configuration"]:
        sys.exit(NOT_CONFIGURED)


@main.command(short_help="Why it is so, and what if the peer died now.")
def explain() -> None:
    """Why this server is what it is, how far the passive is behind, and what would happen, and be lost, if either died now.

    Example: ha explain
    """
    explain_to(say, reached())


def explain_to(tell: Callable[[str], None], config: Config | Reach) -> None:
    """Raises HaError, in words that fit, where heartbeat does not answer: not running, hung, or only root may ask."""
    from ha_manager import explaining, showing, turning

    turning.heartbeat(config, "status")
    for line in explaining.lines(showing.collect(config)):
        tell(line)


@main.command(short_help="Changes of role, each with its reason.")
@click.option("--last", default=20, show_default=True, type=click.IntRange(1, 100), help="So many changes.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def history(last: int, as_json: bool) -> None:
    """The latest changes of role, each with its reason.

    Example: ha history --last 5
    """
    from ha_manager import turning

    changes = turning.heartbeat(reached(), "history", {"last": last})["changes"]
    if as_json:
        say(json.dumps(changes, indent=2))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for change in changes:
        number, node = change["epoch"]
        moved = f"{change['at']}  {change['before']} → {change['after']} (epoch {number}/{node or '-'}): "
        say(_broken(moved + change["because"], width, len(change["at"]) + 2))


def _broken(text: str, width: int, hanging: int) -> str:
    """In lines of a terminal's width; into a pipe (0) as it is."""
    if width <= 2 * hanging:
        return text
    return textwrap.fill(text, width, subsequent_indent=" " * hanging, break_on_hyphens=False)


main.add_command(logs)


@main.command(short_help="Check all configuration; change nothing.")
def check() -> None:
    """Check all configuration of this server. Changes nothing.

    Example: ha check
    """
    need_root()
    from ha_manager import turning

    checked = turning.check()
    for warning in checked.warnings:
        say(f"warning: {warning}")
    config = checked.config
    side = "default active" if config.is_default_active else "default passive"
    say(f"{config.node} is the {side}, its peer is {config.peer} ({config.peer_ip}); everything is in order")


main.add_command(diverged)
main.add_command(reseed)
main.add_command(files)


# --- keys -------------------------------------------------------------------------------------------------------------------


@main.group(cls=AnyCase, short_help="The keys by which the servers know each other.")
def keys() -> None:
    """The keys by which the two servers know each other.

    On each server: `ha keys make`; then carry the line that `ha keys show` prints to the other one, for `ha keys accept`.
    """


def _keys() -> Any:
    need_root()
    from ha_manager.host import load_host
    from runtime.keys import Keys

    return Keys(load_host().paths.keys)


@keys.command(short_help="Make this server's key.")
@click.option("--force", is_flag=True, help="Replace a key that exists: the peer must then accept the new one.")
def make(force: bool) -> None:
    """Make this server's key.

    Example: ha keys make
    """
    key = _keys().make(os.uname().nodename, force=force)
    say(key.line)
    say(f"fingerprint {key.fingerprint}")


@keys.command("show", short_help="Print this server's public key, one line.")
def show_key() -> None:
    """Print this server's public key, one line, for `ha keys accept` on the other server.

    Example: ha keys show
    """
    say(_keys().show().line)


@keys.command(short_help="Accept the peer's public key.")
@click.argument("line", nargs=-1)
@click.option("--replace", is_flag=True, help="Replace another key that was accepted before.")
def accept(line: tuple[str, ...], replace: bool) -> None:
    """Accept the peer's key: LINE as its `ha keys show` prints it, or standard input.

    Example: ssh vs-28 ha keys show | ha keys accept
    """
    text = " ".join(line) if line else sys.stdin.readline()
    key = _keys().accept(text, replace=replace)
    say(f"accepted the key of {key.node}, fingerprint {key.fingerprint}: compare it with `ha keys fingerprint` there")


@keys.command(short_help="Print both fingerprints, to compare.")
def fingerprint() -> None:
    """Print the fingerprints of this server's and the peer's key, to compare by phone.

    Example: ha keys fingerprint
    """
    own = _keys()
    key, peer = own.show(), own.peer()
    say(f"{key.node} (this server) {key.fingerprint}")
    say(f"{peer.node} (the peer) {peer.fingerprint}" if peer else "no key of the peer is accepted yet")


if __name__ == "__main__":
    main(prog_name="ha")
