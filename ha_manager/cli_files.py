"""``ha files``: the replicated files of this pair: how far they are, copied now, put back.

Promise: reading changes nothing. Exit status as everywhere; ``sync`` ends with 0 only when the passive holds it all. Source:
issue "Replicated files".
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import click

from ha_manager.commandline import FAILED, AnyCase, fail, need_root, say
from runtime.errors import HaError, NotRunning

#: nothing at all has moved for so long (seconds)
STUCK = 60.0
_POLL = 0.2


def _ask(do: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    from ha_manager.host import load_host
    from runtime.control import Client

    with Client(load_host().paths.run / "files", 10.0, name="the process of the replicated files") as client:
        return client.request(do, fields or {})


def _kept() -> Path:
    from ha_manager.host import load_host

    return load_host().paths.state / "replaced"


@click.group(cls=AnyCase, invoke_without_command=True, short_help="Replicated files: how far they are; sync, restore.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def files(ctx: click.Context, as_json: bool) -> None:
    """The files that module.xml names: when each changed, when it was copied, how far behind the copy is.

    Example: ha files
    """
    if ctx.invoked_subcommand is not None:
        return
    need_root()
    found = _asked("status")
    if as_json:
        say(json.dumps(found, indent=2))
    else:
        _print(found)


def _asked(do: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    """For an operator: a process that isn't there because nothing is to be copied is not to be started."""
    try:
        return _ask(do, fields)
    except NotRunning as wrong:
        if _named():
            raise
        fail(f"module.xml names no files_to_replicate; so {wrong}", FAILED)


def _named() -> bool:
    from ha_manager.config import load
    from ha_manager.local import addresses

    return bool(load(addresses()).site.files)


def _print(found: dict[str, Any]) -> None:
    for line in lines(found, time.time()):
        say(line)


def lines(found: dict[str, Any], now: float) -> list[str]:
    """All of it in words; ``now``: seconds since 1970."""
    return [
        _headline(found),
        *_table(found, now),
        *_placed(found["placed"]),
        *(f"! {t}" for t in found["alarms"].values() if t),
    ]


def _headline(found: dict[str, Any]) -> str:
    peer, epoch = found["peer"], found["staged"]["epoch"]
    if found["role"] == "active":
        return f"this server is active; files are copied to {peer}" if found["connected"] else f"not copied now: {found['why']}"
    whose = f", staged here from {epoch[1]} in epoch {epoch[0]}" if epoch[0] else "; nothing is staged here yet"
    return f"this server is {found['role']}{whose}"


def _table(found: dict[str, Any], now: float) -> list[str]:
    staging = found["role"] != "active"
    header = (
        "path",
        "copied",
        "last received" if staging else "last change",
        "complete" if staging else "last copied",
        "state",
    )
    rows = [header, *(_row(each, found, now) for each in found["entries"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(each: dict[str, Any], found: dict[str, Any], now: float) -> tuple[str, ...]:
    how = "at once" if each["inotify"] else f"every {each['interval']} s"
    if found["role"] != "active":
        received, complete = found["staged"]["received"], found["staged"]["complete"]
        doubt = each["path"] in found["staged"]["doubts"]
        words = "came as power was lost, may be damaged: compared by content when an active is there" if doubt else ""
        return each["path"], how, _ago(received.get(each["path"], 0), now), _ago(complete.get(each["path"], 0), now), words
    return each["path"], how, _ago(each["last_change"], now), _ago(each["last_copied"], now), state(each)


def state(each: dict[str, Any]) -> str:
    """One entry on the active, in words."""
    if each["progress"]:
        return str(each["progress"])
    if each["error"]:
        return str(each["error"])
    if each["behind"]:
        return f"behind by {each['behind']:.1f} s"
    if each["kind"] == "absent":
        return "does not exist here"
    return (
        "copied" + (f", {each['size']} bytes" if each["kind"] == "file" and each["size"] >= 0 else "") if each["done"] else "-"
    )


def _ago(at: float, now: float) -> str:
    if not at:
        return "-"
    seconds = max(0.0, now - at)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name} ago"
    return f"{seconds:.1f} s ago"


def _placed(placed: dict[str, Any]) -> list[str]:
    if not placed["epoch"][0]:
        return []
    number, node = placed["epoch"]
    said = [
        f"put in place in epoch {number}/{node}: {placed['placed']}, {placed['same']} the same, {placed['removed']} removed"
    ]
    said += [f"  {text}" for text in (*placed["wrong"], *placed["newer"])]
    if placed["placed"] or placed["removed"]:
        said.append(f"  what they replaced: ha files restore {placed['kept']}")
    return said


@files.command(short_help="Copy now, and wait until it is done.")
@click.argument("path", required=False, default="")
def sync(path: str) -> None:
    """Compare and copy everything, or the entry that PATH belongs to, now. Only on the active.

    Example: ha files sync /var/logserver/archive
    """
    need_root()
    tickets = _asked("sync", {"path": path})["tickets"]
    said: dict[str, str] = {}
    moved = time.monotonic()
    while tickets:
        time.sleep(_POLL)
        found = _ask("status")
        if not found["connected"]:
            fail(f"not copied: {found['why']}", FAILED)
        for each in found["entries"]:
            name = each["path"]
            if name in tickets and each["done"] >= tickets[name]:
                del tickets[name]
                say(f"{name}: {state(each)}")
            elif name in tickets and each["error"] and not each["progress"]:
                fail(f"{name}: {each['error']}", FAILED)
            elif name in tickets and each["progress"] != said.get(name, ""):
                said[name], moved = each["progress"], time.monotonic()
                if each["progress"]:
                    say(f"{name}: {each['progress']}")
        if time.monotonic() - moved > STUCK:
            fail(f"nothing has moved for {STUCK:g} s; `ha files` says where it stands", FAILED)


def before_failover(limit: float) -> str:
    """Have the passive get what it lacks, for so many seconds at most. In words what it still lacks then; "": nothing."""
    try:
        tickets = _ask("sync")["tickets"]
        end = time.monotonic() + limit
        while tickets and time.monotonic() < end:
            time.sleep(_POLL / 4)
            found = _ask("status")
            entries = {each["path"]: each for each in found["entries"]}
            tickets = {path: n for path, n in tickets.items() if path in entries and entries[path]["done"] < n}
            stuck = [path for path in tickets if entries[path]["error"] and not entries[path]["progress"]]
            if not found["connected"] or (tickets and len(stuck) == len(tickets)):
                break
        left = [f"{path} ({state(entries[path])})" for path in tickets]
    except HaError as wrong:
        with contextlib.suppress(HaError):  # a module.xml that can't be used now stands in the way of no failover
            if isinstance(wrong, NotRunning) and not _named():
                return ""
        return f"replicated files: {wrong}"
    return f"the copy may lack the latest changes of {', '.join(left)}" if left else ""


@files.command(short_help="Put back what was replaced here at a failover.")
@click.argument("label", required=False, default="")
@click.option("--force", is_flag=True, help="Don't ask.")
def restore(label: str, force: bool) -> None:
    """Put the files back that were replaced when this server became active; what is there now is kept in turn.

    Without LABEL: what can be put back.

    Example: ha files restore 7-vs-28-20261128T101500
    """
    need_root()
    from ha_manager.files import placing

    kept = _kept()
    known = placing.labels(kept)
    if not label:
        for each in known:
            say(f"{each}  {_count(kept / each)} files")
        if not known:
            say("nothing was replaced on this server")
        return
    if label not in known:
        fail(f"nothing is kept under the name {label}; `ha files restore` lists what is", FAILED)
    if not force:
        click.confirm(f"Put {_count(kept / label)} files of {label} in their places", abort=True)
    again = f"before-restore-{time.strftime('%Y%m%dT%H%M%S')}"
    outcome = placing.Placing(kept, kept / again, lambda: None).put_back(kept / label)
    for wrong in outcome.wrong:
        say(f"! {wrong}")
    say(f"{outcome.placed} files are back; what they replaced: ha files restore {again}")
    if outcome.wrong:
        raise HaError(f"{len(outcome.wrong)} could not be put back")


def _count(folder: Path) -> int:
    return sum(1 for each in folder.rglob("*") if each.is_symlink() or not each.is_dir())
