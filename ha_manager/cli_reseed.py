"""``ha reseed``: a fresh copy of the active's database on the passive, on purpose.

Promise: refused where it could take anything from anybody: on the active, without an active that says itself that it is one,
and while a copy is being made. Nothing happens without a question or ``--force``. What this server's database holds beyond the
active's is kept (``ha diverged``). Source: design §4 rule 10.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from ha_manager.commandline import FAILED, fail, need_root, say
from runtime.errors import HaError

_POLL = 0.2
#: a copy that is complete streams within this time (seconds)
_STREAMS = 60.0


@click.command(short_help="Copy the active's database afresh to this passive.")
@click.option("--force", is_flag=True, help="Don't ask.")
def reseed(force: bool) -> None:
    """Replace this passive's database by a fresh copy of the active's: for one that is damaged in a way that nobody noticed.

    Refused on the active, and while the other server doesn't say that it is active. Until it is done nobody could take over.

    Example: ha reseed
    """
    need_root()
    risk = _ask("reseed", {"force": False})["text"]
    if not force:
        say(str(risk))
        if not sys.stdin.isatty():
            fail("not confirmed; `ha reseed --force` does it without a question", FAILED)
        click.confirm("Replace it", abort=True)
    began = time.monotonic()
    say(str(_ask("reseed", {"force": True, "by": "ha reseed"})["text"]))
    _watch(began)


def _ask(do: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    from ha_manager.host import load_host
    from runtime.control import Client

    with Client(load_host().paths.run / "control", 5.0, name="ha_manager") as client:
        return client.request(do, fields or {})


def _watch(began: float) -> None:
    """Until it streams again. Interrupted, the copy goes on."""
    said, copied = "", 0.0
    while not copied or time.monotonic() - copied < _STREAMS:
        try:
            now = _ask("status")
        except HaError as wrong:
            fail(f"{wrong}. The copy is given up when ha_manager ends; `ha reseed` again", FAILED)
        if now["trouble"] and not now["copying"]:
            fail(f"not copied: {now['trouble']}", FAILED)
        if now["copying"] and now["copying"] != said:
            said = now["copying"]
            say(f"{time.monotonic() - began:5.1f} s  {said}")
        if not now["copying"]:
            copied = copied or time.monotonic()
            if now["replication"] == "streaming":
                say(f"{time.monotonic() - began:5.1f} s  this server follows {now['peer']} again")
                return
        time.sleep(_POLL)
    fail("the copy does not follow yet; `ha show` says where it stands", FAILED)
