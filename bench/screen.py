"""What the demo and the benchmarks show: progress while it happens, then figures.

Promise: on a terminal with colours and a clock that runs, otherwise plain lines; every line says how long it has been. Source:
house style, 11.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psycopg
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from bench.drill import Result, figures
from bench.ledger import in_words
from bench.timeline import Moment, Outage
from runtime.clock import boottime
from runtime.errors import HaError


@contextlib.contextmanager
def shown(program: str) -> Iterator[Screen]:
    """A screen for ``program``, which ends with one line where something failed, and with 130 after Ctrl-C."""
    try:
        with Screen() as screen:
            yield screen
    except KeyboardInterrupt:
        sys.exit(130)
    except (HaError, psycopg.Error) as wrong:
        sys.exit(f"{program}: {wrong}")


class Screen:
    """``say`` is one line of progress; it stays, and on a terminal it runs on until the next."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
        #: 0: not a terminal, lines are not broken
        self._width = max(60, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 0
        self._began = boottime()
        self._status: Status | None = Status("", console=self.console) if self.console.is_terminal else None

    def __enter__(self) -> Screen:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        first, *further = self._broken(text, 10)
        self.console.print(f"[dim]{boottime() - self._began:6.1f} s[/dim]  {escape(first)}")
        for line in further:
            self.console.print(" " * 10 + escape(line))
        if self._status is not None:
            self._status.update(escape(text))

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def plain(self, text: str, hanging: int = 0) -> None:
        first, *further = self._broken(text, hanging)
        self.console.print(escape(first))
        for line in further:
            self.console.print(" " * hanging + escape(line))

    def _broken(self, text: str, column: int) -> list[str]:
        """``text`` in lines that fit right of ``column``; one line where nobody knows the width."""
        if not self._width or not text or "\n" in text:
            return [text]
        return textwrap.wrap(text, self._width - column, break_on_hyphens=False)

    def error(self, text: str) -> None:
        self.console.print(f"[bold red]{escape(text)}[/bold red]")

    # --- one event --------------------------------------------------------------------------------------------------------

    def result(self, result: Result) -> None:
        """Timeline, outages, what was lost, what a client was told besides a dropped connection."""
        self.heading(result.title[0].upper() + result.title[1:])
        if result.moments:
            self._timeline(result.moments, result.at)
        if result.kind == "rejoin":
            self.plain(
                f"In sync {result.seconds:.1f} s after power-on; longest pause of writes meanwhile: {_outage(result.quick)}."
            )
        else:
            word = "Pause of writes" if result.kind.startswith("passive") else "Client-visible write outage"
            self.plain(f"{word}: {_outage(result.quick)}; plain libpq client: {_outage(result.plain)}.")
        if result.kind == "switchover":
            self.plain(f"In sync again, the other way round, {result.seconds:.1f} s after it was asked.")
        for verdict in result.verdicts:
            line = f"  {in_words(verdict)}"
            self.plain(line, 4) if verdict.holds else self.error(line)
        for text in result.complaints:
            self.error(f"  a client was told: {text}")

    def settings(self, clients: dict[str, str]) -> None:
        self.heading("The clients: every 5 ms one insert through the virtual IP; each acknowledgement is recorded")
        for name, settings in clients.items():
            self.plain(f"  {name}: {settings}", 4)

    def _timeline(self, moments: list[Moment], zero: float) -> None:
        """What happened when; a reason only where it is a new one."""
        column = max(len(moment.what) for moment in moments) + 13
        told: list[str] = [moment.what for moment in moments]
        for moment in moments:
            at = "not seen" if moment.at is None else f"{(moment.at - zero) * 1000:+.0f} ms"
            why = moment.why
            for earlier in told:
                why = why.removesuffix(earlier).rstrip(": ")
            first, *further = self._broken(why, column) if why else [""]
            line = f"{at:>9}  {moment.what}".ljust(column)
            self.console.print(f"{escape(line)}[dim]{escape(first)}[/dim]" if first else escape(line.rstrip()))
            for text in further:
                self.console.print(" " * column + f"[dim]{escape(text)}[/dim]")
            told += [why] if why else []


def _outage(outage: Outage | None) -> str:
    if outage is None:
        return "not measured"
    if outage.end is None:
        return "it never resumed"
    further = f" (further pauses: {', '.join(f'{ms:.0f} ms' for ms in outage.others)})" if outage.others else ""
    return f"{outage.ms:.0f} ms{further}"


def write_json(path: Path | None, results: list[Result]) -> None:
    if path is not None:
        path.write_text(json.dumps(figures(results), indent=1) + "\n")
