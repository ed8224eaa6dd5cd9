"""The active's half: looks at what changed, and brings it to the passive.

Promise: a change is forgotten only when the passive has said that it holds it, or a full pass that began after it has ended.
Small things are never held up by a large transfer: each has a thread of its own. Every new connection begins with a full pass
of everything; of what the passive may hold damaged since it lost power, by content. Nothing is sent unless ``direction`` allows
it. Source: issue "Replicated files".
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

from ha_manager.config import Config
from ha_manager.files import rsync
from ha_manager.files.accounts import Account, alarms, late, summary
from ha_manager.files.backlog import Backlog
from ha_manager.files.bulk import Transfer
from ha_manager.files.changes import LONGEST, QUIET, Change
from ha_manager.files.copyplan import MANY, Ask, pass_of, plan
from ha_manager.files.direction import Standing, why_not_send
from ha_manager.files.items import Changing, Item, Kind, look, read, walk
from ha_manager.files.line import Line, LineLost
from ha_manager.site import ReplicatedFile
from runtime import frames
from runtime.errors import HaError

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.2, 3.0
#: something that failed for a reason of its own is tried again after so long (seconds)
AGAIN, AGAIN_MOST = 2.0, 30.0
#: how often a line that idles is looked at (seconds)
IDLE = 0.5
#: a pass during which something vanished is done again so often
VANISHING = 3
#: at most so many are kept of what the passive said
NOTES = 100


class Sending:
    """Also a ``watching.Listener``. ``dial`` opens the line to the passive; ``transfer`` runs one rsync."""

    def __init__(
        self,
        config: Callable[[], Config],
        dial: Callable[[Standing], Line],
        transfer: Transfer,
        clock: Callable[[], float],
    ) -> None:
        self._config, self._dial, self._transfer, self._clock = config, dial, transfer, clock
        self.backlog = Backlog(clock)
        #: file entries: what was sent last
        self._sent: dict[str, Item] = {}
        #: entries that the passive may hold damaged
        self._doubts: set[str] = set()
        self._own = Standing()
        self._line: Line | None = None
        self._ended = False
        self.why = "nothing was tried yet"
        #: what the passive said against single things: owners, entries that it doesn't have
        self.notes: dict[str, str] = {}
        self.accounts: dict[str, Account] = {}
        self.renew()

    # --- what it is told --------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        """The configuration is new."""
        old, entries = self.accounts, self._config().site.files
        self.accounts = {each.name: replace(old.get(each.name, Account(each)), entry=each) for each in entries}
        self.notes = {}
        self.reconnect()

    def reconnect(self) -> None:
        if self._line is not None:
            self._line.close()
        self.backlog.nudge()

    def standing(self, own: Standing) -> None:
        if own == self._own:
            return
        self._own = own
        if why_not_send(own):
            self.backlog.forget()
            self._sent = {}
            for account in self.accounts.values():
                account.error = account.progress = account.unwatched = ""
        self._transfer.cancel()
        self.reconnect()

    def end(self) -> None:
        self._ended = True
        self._transfer.cancel()
        self.reconnect()

    def written(self, entry: str, path: str) -> None:
        if self._changed(entry):
            self.backlog.written(entry, path)

    def modified(self, entry: str, path: str) -> None:
        if self._changed(entry):
            self.backlog.modified(entry, path)

    def moved(self, entry: str, path: str, tree: bool) -> None:
        if self._changed(entry):
            self.backlog.moved(entry, path, tree)

    def full(self, entry: str) -> None:
        if self._changed(entry):
            self.backlog.full(entry)

    def _changed(self, entry: str) -> bool:
        account = self.accounts.get(entry)
        if account is None or why_not_send(self._own):
            return False
        account.changed = time.time()
        return True

    def unwatched(self, entry: str, because: str) -> None:
        if entry in self.accounts:
            self.accounts[entry].unwatched = because

    def due(self, entry: str, *, checksum: bool = False) -> None:
        """Its interval is over: compare it."""
        if entry not in self.accounts or why_not_send(self._own) or self._line is None:
            return None
        try:
            item = look(entry)
        except OSError as wrong:
            return self._failed(entry, str(wrong))
        if item.kind is Kind.FOLDER:
            return self.backlog.ask(entry, Ask(self._clock(), None, checksum))
        if checksum or (item != self._sent.get(entry) and (item.kind is not Kind.ABSENT or entry in self._sent)):
            self.moved(entry, entry, False)
        return None

    def sync(self, paths: Iterable[str]) -> dict[str, int]:
        """A full pass of these now; by entry, the number of the pass to wait for. Raises HaError."""
        if why := why_not_send(self._own) or ("" if self._line is not None else self.why):
            raise HaError(f"nothing can be copied now: {why}")
        tickets = {}
        for path in paths:
            self.accounts[path].asked += 1
            tickets[path] = self.accounts[path].begun + 1  # one that is under way may have looked before
            self.backlog.full(path)
        return tickets

    # --- what it tells ------------------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[Account, float]]:
        return [(account, self.backlog.behind(name)) for name, account in list(self.accounts.items())]

    def alarms(self) -> dict[str, str]:
        found = alarms(self.rows(), self._config().peer, self.why)
        return found | {"files-peer": next(iter(self.notes.values()), "")}

    def summary(self) -> str:
        behind = any(late(account, seconds) for account, seconds in self.rows())
        return summary(self._own.role, len(self.accounts), self._line is not None, behind)

    # --- the thread of the session --------------------------------------------------------------------------------------------

    def run(self) -> None:
        wait = RETRY_FIRST
        while not self._ended:
            if why := why_not_send(self._own):
                self._drop(why)
                self.backlog.forget()
                self.backlog.wait(IDLE)
            elif self._line is None or not self._line.alive:
                wait = RETRY_FIRST if self._connect() else min(RETRY_MOST, wait * 2)
                if self._line is None:
                    self._rest(wait)
            else:
                self._work(self._line)

    def _rest(self, seconds: float) -> None:
        """Whatever changes meanwhile."""
        end = self._clock() + seconds
        own = self._own
        while (left := end - self._clock()) > 0 and not self._ended and self._own is own:
            self.backlog.rest(left)

    def _connect(self) -> bool:
        self._drop(self.why)
        own = self._own
        try:
            line = self._dial(own)
            (hello,) = line.exchange([frames.encode({"do": "hello", "epoch": list(own.epoch)})])
            if not hello.get("ok"):
                line.close()
                raise HaError(str(hello.get("error")))
        except (HaError, OSError) as wrong:
            if str(wrong) != self.why:
                log.info("replicated files: %s", wrong)
            self.why = str(wrong)
            return False
        log.info("replicated files are copied to %s", self._config().peer)
        missing = sorted(set(self.accounts) - set(hello.get("entries", [])))
        self.notes = {}
        if missing:
            peer = self._config().peer
            self.notes["entries"] = f"module.xml on {peer} does not name {', '.join(missing)}: never put in place there"
        self._doubts = set(hello.get("doubts", []))
        self._line, self.why = line, ""
        for entry in self.accounts:
            self.backlog.full(entry)
        return True

    def _drop(self, why: str) -> None:
        if self._line is not None:
            self._line.close()
        self._line, self.why = None, why or "the copying session ended"

    def _work(self, line: Line) -> None:
        taken = self.backlog.take()
        if not taken:
            self.backlog.wait(IDLE)
            return
        try:
            for entry, since in taken.full.items():
                self._pass(line, entry, since)
            for entry, changes in taken.due.items():
                self._copy(line, entry, changes)
        except Exception as wrong:
            self.backlog.give_back()
            self._drop(str(wrong))
            if not isinstance(wrong, LineLost):
                raise
            log.info("replicated files: %s", wrong)
        else:
            self.backlog.landed()

    def _pass(self, line: Line, entry: str, since: float) -> None:
        """All of it."""
        account = self.accounts.get(entry)
        if account is None:
            return None
        began = self._clock()
        try:
            item = look(entry)
        except OSError as wrong:
            return self._failed(entry, str(wrong))
        account.kind = item.kind.value
        if item.kind is Kind.FOLDER:
            return self.backlog.ask(entry, Ask(since, None, entry in self._doubts))
        account.begun += 1
        number = account.begun
        if item.kind is not Kind.ABSENT or entry in self._sent:
            self._copy(line, entry, [Change(entry, since)])
        if account.error or self.backlog.asked(entry):
            return None
        if error := self._complete(line, account, number, self._clock() - began, True):
            self._failed(entry, error)
        return None

    def _complete(self, line: Line, account: Account, number: int, took: float, checksum: bool) -> str:
        """Tell the passive, which has to write it down; then whoever waits for it may go on. Returns why not ("")."""
        entry = account.entry.name
        header = {"do": "complete", "path": entry, "took": took, "checksum": checksum, "epoch": list(self._own.epoch)}
        (answer,) = line.exchange([frames.encode(header)])
        if not answer.get("ok"):
            return _refusal(answer)
        if checksum:
            self._doubts.discard(entry)
        account.done = number
        return ""

    def _copy(self, line: Line, entry: str, changes: list[Change]) -> None:
        found, trees = self._look_at(entry, changes)
        todo = plan(entry, found, trees)
        if todo.small:
            self._exchange(line, entry, todo.small)
        if todo.whole:
            self.backlog.ask(entry, Ask(min(change.since for change in todo.whole), None))
        elif todo.names:
            asked = {change.path: change for change in todo.names}
            self.backlog.ask(entry, Ask(min(change.since for change in todo.names), asked))

    def _look_at(self, entry: str, changes: list[Change]) -> tuple[list[tuple[Change, Item]], frozenset[str]]:
        found: list[tuple[Change, Item]] = []
        trees: set[str] = set()
        for change in changes:
            try:
                item = look(change.path)
                found.append((change, item))
                if change.tree and item.kind is Kind.FOLDER:
                    below = [path for path in islice(walk(change.path), MANY + 1) if not self._is_of_another(entry, path)]
                    if len(below) > MANY or change.path == entry:
                        trees.add(change.path)
                    else:
                        found += [(replace(change, path=path), look(path)) for path in below]
            except OSError as wrong:
                self._failed(entry, str(wrong), [change])
        return found, frozenset(trees)

    def _is_of_another(self, entry: str, path: str) -> bool:
        return any(path == other or path.startswith(other + "/") for other in self._inner(entry))

    def _inner(self, entry: str) -> list[str]:
        return [other for other in self.accounts if other.startswith(entry + "/")]

    def _exchange(self, line: Line, entry: str, small: Iterable[tuple[Change, Item]]) -> None:
        account = self.accounts.get(entry)
        if account is None:
            return
        sent: list[tuple[Change, Item]] = []
        messages: list[bytes] = []
        for change, item in small:
            content = b""
            if item.kind is Kind.FILE:
                try:
                    got = read(change.path, frames.CONTENT_LIMIT)
                except Changing:
                    self._still_written(entry, change)
                    continue
                except OSError as wrong:
                    self._failed(entry, str(wrong), [change])
                    continue
                if got is None:  # something else by now
                    self.backlog.again(entry, [change], 0.0)
                    continue
                item, content = got
            more: dict[str, Any] = {}
            if item.kind is Kind.FOLDER and change.tree:
                try:
                    more["names"] = os.listdir(change.path)
                except OSError:
                    continue  # it is gone again, which is told, too
            sent.append((change, item))
            messages.append(self._message(account.entry, change.path, item, content, more))
        answers = line.exchange(messages) if messages else []
        self.backlog.went(entry, [change for change, _ in sent])
        for (change, item), answer in zip(sent, answers, strict=True):
            self._answered(account, change, item, answer)

    def _message(self, entry: ReplicatedFile, path: str, item: Item, content: bytes, more: dict[str, Any]) -> bytes:
        if entry.owner:
            user, _, group = entry.owner.partition(":")
            item = replace(item, owner=(user, group))
        do = "remove" if item.kind is Kind.ABSENT else item.kind.value
        return frames.encode(item.header() | {"do": do, "path": path, "epoch": list(self._own.epoch)} | more, content)

    def _answered(self, account: Account, change: Change, item: Item, answer: dict[str, Any]) -> None:
        entry = account.entry.name
        if not answer.get("ok"):
            return self._failed(entry, _refusal(answer), [change])
        account.copied, account.error = time.time(), ""
        if change.path == entry:
            account.kind, account.size = item.kind.value, item.size
            self._sent[entry] = item
        if (unknown := answer.get("unknown")) and len(self.notes) < NOTES:
            self.notes[change.path] = f"{change.path} on {self._config().peer}: {unknown}"
        else:
            self.notes.pop(change.path, None)
        return None

    def _still_written(self, entry: str, change: Change) -> None:
        """Whoever never stops writing a file gets it copied as it is, by rsync."""
        if self._clock() - change.since < 2 * LONGEST:
            self.backlog.again(entry, [change], QUIET)
        else:
            self.backlog.ask(entry, Ask(change.since, {change.path: change}))

    def _failed(self, entry: str, error: str, changes: list[Change] | None = None) -> None:
        account = self.accounts.get(entry)
        if account is None:
            return
        if account.error != error:
            log.warning("replicated files: %s: %s", entry, error)
        account.error = error
        self.backlog.again(entry, changes or [Change(entry, self._clock())], AGAIN)

    # --- the thread of rsync ------------------------------------------------------------------------------------------------

    def run_bulk(self) -> None:
        while not self._ended:
            allowed = not why_not_send(self._own) and self._line is not None
            taken = self.backlog.take_pass() if allowed else None
            if taken is None:
                self.backlog.rest(IDLE)
                continue
            entry, ask = taken
            try:
                if account := self.accounts.get(entry):
                    self._bulk(account, ask, self._own)
            except Exception:
                ask.at = self._clock() + AGAIN_MOST
                self.backlog.ask(entry, ask)
                raise
            finally:
                self.backlog.compared(entry)

    def _bulk(self, account: Account, ask: Ask, own: Standing) -> None:
        entry = account.entry.name
        transfer = pass_of(account.entry, ask, self._inner(entry), self._config().host.files.bandwidth)
        began, whole = self._clock(), ask.changes is None or entry in ask.changes
        account.begun += whole
        number = account.begun
        account.progress = "comparing" if ask.changes is None else f"{len(transfer.names)} paths"
        before = None if ask.changes is None else _looked_at(entry)

        def told(size: int, percent: int, speed: str) -> None:
            account.progress = f"{size >> 20} MiB sent, {percent} %, {speed}"

        try:
            error = self._transfer.run(transfer, own.epoch, told)
        except OSError as wrong:
            error = f"rsync can't be run: {wrong}"
        account.progress = ""
        if self._own is not own:
            return
        if error and error != rsync.VANISHED:
            self._bulk_failed(account, ask, error)
            return
        if error and ask.vanished < VANISHING:
            more = Ask(began, ask.changes, at=self._clock() + RETRY_FIRST * 2**ask.vanished, vanished=ask.vanished + 1)
            self.backlog.ask(entry, more)
        account.copied, account.error = time.time(), ""
        if before is not None and ask.changes is not None and entry in ask.changes:
            self._sent[entry], account.size = before, before.size
        line = self._line
        if line is not None and whole:
            by_content = ask.checksum or ask.changes is not None
            with contextlib.suppress(LineLost):  # a new connection begins with a full pass
                if error := self._complete(line, account, number, self._clock() - began, by_content):
                    self._bulk_failed(account, ask, error)

    def _bulk_failed(self, account: Account, ask: Ask, error: str) -> None:
        ask.failures += 1
        if account.error != error:
            log.warning("replicated files: %s: %s", account.entry.name, error)
        account.error = error
        ask.at = self._clock() + min(AGAIN_MOST, AGAIN * 2 ** (ask.failures - 1))
        self.backlog.ask(account.entry.name, ask)


def _refusal(answer: dict[str, Any]) -> str:
    """Raises LineLost if the other server takes nothing at all."""
    if answer.get("refused"):
        raise LineLost(str(answer.get("error")))
    return str(answer.get("error"))


def _looked_at(path: str) -> Item | None:
    try:
        return look(path)
    except OSError:
        return None
