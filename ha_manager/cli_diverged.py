"""``ha diverged``: the databases that a rejoin replaced; what they held, and their removal.

Promise: reading changes nothing; nothing is removed without a name or ``--all``, and a question or ``--force``.
Source: design §4 rule 10.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from ha_manager.commandline import FAILED, AnyCase, fail, need_root, reached, say

if TYPE_CHECKING:
    from ha_manager.cluster import PostgresConfig
    from ha_manager.divergence import Kept

ACKNOWLEDGED = {
    "yes": "it ran without its peer: they were acknowledged to clients",
    "no": "its commits waited for its peer when it stopped: the last ones were not acknowledged to anybody",
    "unknown": "whether they were acknowledged is not known",
}


def _cluster() -> PostgresConfig:
    need_root()
    from ha_manager.wiring import cluster_of

    return cluster_of(reached())


def _listed(config: PostgresConfig) -> list[Kept]:
    from ha_manager import divergence

    return divergence.listed(config.diverged_dir, config.data_dir)


def _named(config: PostgresConfig, label: str) -> Kept:
    found = next((kept for kept in _listed(config) if kept.label == label), None)
    return found or fail(f"nothing is kept under the name {label}; `ha diverged` lists what is", FAILED)


@click.group(cls=AnyCase, invoke_without_command=True, short_help="Databases that a rejoin replaced: list, show, remove.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def diverged(ctx: click.Context, as_json: bool) -> None:
    """What this server's database held beyond the active's history when it came back, and where that is kept.

    Example: ha diverged
    """
    if ctx.invoked_subcommand is not None:
        return
    found = _listed(_cluster())
    if as_json:
        places = [{"folder": kept.folder, "directory": kept.directory, "size": kept.size} for kept in found]
        say(json.dumps([kept.as_json() | place for kept, place in zip(found, places, strict=True)], indent=2))
        return
    if not found:
        say("no database of this server was ever replaced, or nothing of it is kept any more")
    for kept in found:
        say(_line(kept))


def _line(kept: Kept) -> str:
    stamp = kept.label.partition("-")[2]
    when = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}" if len(stamp) == 15 else stamp
    from ha_manager.divergence import how_many

    held = how_many(kept) if kept.transactions > 0 or (kept.transactions == 0 and not kept.gap) else "unknown contents"
    whole = "log and directory" if kept.directory and kept.folder else "directory" if kept.directory else "log"
    return f"{kept.label}  {when}  {held}, {whole}, {max(1, kept.size >> 20)} MiB"


@diverged.command("show", short_help="What one of them held.")
@click.argument("label")
def show(label: str) -> None:
    """What the database kept as LABEL held beyond the active's history: transactions, tables, where to read on.

    Tables are named by asking this server's Postgres.

    Example: ha diverged show 7-20261121T094410
    """
    from ha_manager import divergence, tablenames

    config = _cluster()
    kept = _named(config, label)
    say(kept.text or "there is no report any more")
    if kept.transactions > 0:
        say(f"{divergence.how_many(kept)}; {ACKNOWLEDGED.get(kept.acknowledged, ACKNOWLEDGED['unknown'])}")
    files = [divergence.File.of(name) for name in kept.tables]
    names = tablenames.of(config, files)
    for file in files:
        rows = ", ".join(f"{count} {what}" for what, count in sorted(kept.tables[str(file)].items()))
        say(f"  {names.get(file, f'file {file.number} of database {file.database}')}: {rows}")
    for place in filter(None, (kept.folder, kept.directory)):
        say(f"kept in {place}")


@diverged.command("remove", short_help="Delete what is kept of them.")
@click.argument("labels", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--force", is_flag=True, help="Don't ask.")
def remove(labels: tuple[str, ...], everything: bool, force: bool) -> None:
    """Delete the log and the directory kept as LABEL. What only they hold is gone then.

    Example: ha diverged remove 7-20261121T094410
    """
    from ha_manager import divergence

    config = _cluster()
    if not labels and not everything:
        fail("name what is to be removed (`ha diverged` lists it), or use --all", 2)
    chosen = _listed(config) if everything else [_named(config, label) for label in labels]
    for kept in chosen:
        say(_line(kept))
    if chosen and not force:
        if not sys.stdin.isatty():
            fail("not confirmed; --force removes without a question", FAILED)
        click.confirm(f"Delete {len(chosen)} of them for good", abort=True)
    for kept in chosen:
        divergence.remove(kept, config.data_dir)
        say(f"{kept.label} is removed")
