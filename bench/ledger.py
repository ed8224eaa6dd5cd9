"""The client that proves things: inserts an increasing id through the virtual IP and records every acknowledgement.

    python -m bench.ledger write --host 192.168.120.187 --file acks --seconds 60
    python -m bench.ledger verify --host 192.168.120.187 --file acks

Promise: no id is ever sent twice; an id whose outcome is unknown is not sent again; it goes on at once after any error; it ends
by itself after ``--seconds``, at SIGTERM, or (``--while-stdin``) when its standard input is closed. ``verify`` reads the table
back and ends with 1 if an acknowledged id is missing or any is there twice. Source: issue "A pair of policy servers …".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import psycopg

from bench.client import Connector, Either, Lost, Plain, Quick, Session, Target
from bench.record import Count, Entry, Kind, Recorder, Verdict, judge, read
from runtime.clock import boottime

#: Between two attempts to connect (seconds): a refused one costs next to nothing.
_PAUSE = 0.005


def write(connector: Connector, record: Recorder, every: float, stopped: Callable[[], bool]) -> None:
    """Insert one id every ``every`` seconds until ``stopped``; a slow one delays the next."""
    record.write(Kind.BEGUN, text=connector.settings)
    while not stopped():
        try:
            session = connector.connect()
        except Lost as why:
            record.write(Kind.FAILED, text=str(why))
            time.sleep(max(every, _PAUSE))
            continue
        record.write(Kind.CONNECTED)
        _insert_until_lost(session, record, every, stopped)
        session.close()
    record.write(Kind.ENDED)


def _insert_until_lost(session: Session, record: Recorder, every: float, stopped: Callable[[], bool]) -> None:
    due = boottime()
    while not stopped():
        id = record.next_id()
        try:
            warning = session.insert(id)
        except Lost as why:
            record.write(Kind.UNKNOWN, id, str(why))
            return
        if warning:
            record.write(Kind.WARNED, id, warning)
        else:
            record.write(Kind.ACK, id)
        due = max(due + every, boottime())
        time.sleep(max(0.0, due - boottime()))


def verify(target: Target, records: dict[str, list[Entry]], limit: float = 10.0) -> list[Verdict]:
    """Compare the table with each client's record. Raises psycopg.Error when it can't be read within ``limit`` seconds."""
    rows: dict[str, list[int]] = {client: [] for client in records}
    with _reading(target, limit) as conn:
        for client, id in conn.execute(f"SELECT client, id FROM {target.table} ORDER BY id"):
            rows.setdefault(client, []).append(id)
    return [judge(client, entries, rows[client]) for client, entries in records.items()]


def _reading(target: Target, limit: float) -> psycopg.Connection[tuple[str, int]]:
    end = boottime() + limit
    while True:
        try:
            return psycopg.connect(target.conninfo(connect_timeout=2), autocommit=True)
        except psycopg.OperationalError:
            if boottime() > end:
                raise
            time.sleep(0.05)


def tables(names: Sequence[str]) -> Iterator[str]:
    """The statements that make the ledger's tables. No key and no index: a duplicate must be able to show."""
    for name in names:
        columns = "client text NOT NULL, id bigint NOT NULL, at timestamptz DEFAULT clock_timestamp()"
        yield f"CREATE TABLE IF NOT EXISTS {name} ({columns})"


# --- the command --------------------------------------------------------------------------------------------------------------


def _target(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--host", required=True, help="Address, folder of a Unix socket, or ADDRESS,ADDRESS: who takes writes."),
        click.option("--port", default=5432, show_default=True),
        click.option("--dbname", default="policy_server", show_default=True),
        click.option("--user", default="ledger", show_default=True),
        click.option("--table", default="ledger", show_default=True),
        click.option("--client", default="ledger", show_default=True, help="Name in the table's column client."),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Writes an increasing id to a database and proves what became of each. PGPASSWORD counts."""


@main.command("write")
@_target
@click.option("--file", type=click.Path(path_type=Path), required=True, help="Record; an existing one is continued.")
@click.option("--every", default=0.005, show_default=True, help="Seconds between inserts.")
@click.option("--seconds", default=600.0, show_default=True, help="Ends by itself after so long.")
@click.option("--plain", is_flag=True, help="Plain libpq settings: blocking, connect_timeout=2.")
@click.option("--connect-limit", default=0.1, show_default=True, help="Seconds for a connection (not with --plain).")
@click.option("--insert-limit", default=0.3, show_default=True, help="Seconds for an insert (not with --plain).")
@click.option("--while-stdin", is_flag=True, help="End when standard input is closed.")
@click.option("--summary", type=click.Path(path_type=Path), help="At the end, write what was done as JSON.")
def write_command(
    file: Path, every: float, seconds: float, plain: bool, connect_limit: float, insert_limit: float,
    while_stdin: bool, summary: Path | None, **where: object,
) -> None:  # fmt: skip
    """Insert ids until told to stop."""
    target = Target(**where)  # type: ignore[arg-type]
    quick = [Quick(each, connect_limit, insert_limit) for each in (target.each if "," in target.host else (target,))]
    connector: Connector = Plain(target) if plain else Either(quick) if len(quick) > 1 else quick[0]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    if while_stdin:
        threading.Thread(target=_at_end_of_input, args=(stop,), daemon=True).start()
    end = boottime() + seconds
    record = Recorder(file)

    def stopped() -> bool:
        return stop.is_set() or boottime() > end

    # A blocking call can't be interrupted: the plain client writes in a thread that is left behind.
    writer = threading.Thread(target=write, args=(connector, record, every, stopped), daemon=True)
    writer.start()
    while writer.is_alive() and not stopped():
        stop.wait(0.1)
    writer.join(1.0)
    done = Count.of(read(file))
    if summary is not None:
        summary.write_text(json.dumps(asdict(done) | {"in_doubt": sorted(done.in_doubt)}, indent=1) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _at_end_of_input(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


@main.command("verify")
@_target
@click.option(
    "--file", "files", required=True, multiple=True, metavar="[TABLE=]FILE", help="Several: named after their clients."
)
@click.option("--json", "as_json", is_flag=True)
def verify_command(files: tuple[str, ...], as_json: bool, **where: object) -> None:
    """Compare tables with records. A file named CLIENT.* is that client's; a single file is --client's."""
    target = Target(**where)  # type: ignore[arg-type]
    verdicts: list[Verdict] = []
    for table, records in _by_table(files, target).items():
        try:
            verdicts += verify(replace(target, table=table), records)
        except psycopg.Error as wrong:
            raise click.ClickException(f"{table} can't be read from {target.host}: {wrong}") from wrong
    if as_json:
        click.echo(json.dumps([asdict(verdict) for verdict in verdicts]))
    for verdict in verdicts if not as_json else []:
        click.echo(in_words(verdict))
    if not all(verdict.holds for verdict in verdicts):
        sys.exit(1)


def _by_table(files: tuple[str, ...], target: Target) -> dict[str, dict[str, list[Entry]]]:
    found: dict[str, dict[str, list[Entry]]] = {}
    for word in files:
        table, _, name = word.rpartition("=")
        path = Path(name)
        if not path.exists():
            raise click.BadParameter(f"there is no file {path}")
        client = target.client if len(files) == 1 else path.name.split(".")[0]
        found.setdefault(table or target.table, {})[client] = read(path)
    return found


def in_words(verdict: Verdict) -> str:
    """One line for people; the first ids of what is wrong."""
    parts = [f"{verdict.client}: {verdict.acknowledged} acknowledged, {len(verdict.lost)} of them missing"]
    for name, ids in (("missing", verdict.lost), ("there twice", verdict.twice), ("never sent", verdict.strange)):
        if ids:
            parts.append(f"{name}: {', '.join(map(str, ids[:10]))}{' …' if len(ids) > 10 else ''}")
    doubtful = verdict.in_doubt_present + verdict.in_doubt_absent
    if doubtful:
        # Cut off between the insert and its answer: either outcome is right, as long as it is one of the two.
        parts.append(f"{doubtful} cut off before the answer came ({verdict.in_doubt_present} of them written)")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
