"""The active's half: looks at what changed, and brings it to the passive.

Promise: a change is forgotten only when the passive has said that it holds it, or a full pass that began after it has ended.
Small things are never held up by a large transfer: each has a thread of its own. Every new connection begins with a full pass
of everything. Nothing is sent unless ``direction`` allows it. Source: issue "Replicated files".
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from math import inf
from typing import Any

from ha_manager.config import Config
from ha_manager.files.accounts import Account, alarms, late, summary
from ha_manager.files.bulk import Transfer
from ha_manager.files.changes import LONGEST, QUIET, Change, Changes
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
        self._turn = threading.Condition()
        self._changes = Changes()
        self._asks: dict[str, Ask] = {}
        #: (entry, lane) → since when what is under way there has waited
        self._flying: dict[tuple[str, str], float] = {}
        #: entry that rsync is at → what went over the session meanwhile, which rsync may undo
        self._during: dict[str, list[Change]] = {}
        #: file entries: what was sent last
        self._sent: dict[str, Item] = {}
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
        with self._turn:
            old, entries = self.accounts, self._config().site.files
            self.accounts = {each.name: replace(old.get(each.name, Account(each)), entry=each) for each in entries}
            self.notes = {}
        self.reconnect()

    def reconnect(self) -> None:
        if self._line is not None:
            self._line.close()
        self._nudge()

    def standing(self, own: Standing) -> None:
        with self._turn:
            if own == self._own:
                return
            self._own = own
            if why_not_send(own):
                self._changes.forget()
                self._asks, self._flying, self._during, self._sent = {}, {}, {}, {}
                for account in self.accounts.values():
                    account.error = account.progress = account.unwatched = ""
            self._turn.notify_all()
        self._transfer.cancel()
        self.reconnect()

    def end(self) -> None:
        self._ended = True
        self._transfer.cancel()
        self.reconnect()

    def written(self, entry: str, path: str) -> None:
        self._noted(entry, lambda now: self._changes.written(entry, path, now))

    def moved(self, entry: str, path: str, tree: bool) -> None:
        self._noted(entry, lambda now: self._changes.moved(entry, path, now, tree=tree))

    def full(self, entry: str) -> None:
        self._noted(entry, lambda now: self._changes.full(entry, now))

    def unwatched(self, entry: str, because: str) -> None:
        with self._turn:
            if entry in self.accounts:
                self.accounts[entry].unwatched = because

    def _noted(self, entry: str, note: Callable[[float], None]) -> None:
        with self._turn:
            if entry not in self.accounts or why_not_send(self._own):
                return
            self.accounts[entry].changed = time.time()
            note(self._clock())
            self._turn.notify_all()

    def due(self, entry: str, *, checksum: bool = False) -> None:
        """Its interval is over: compare it."""
        with self._turn:
            if entry not in self.accounts or why_not_send(self._own) or self._line is None:
                return None
        try:
            item = look(entry)
        except OSError as wrong:
            return self._failed(entry, str(wrong))
        if item.kind is Kind.FOLDER:
            return self._ask(entry, Ask(self._clock(), None, checksum))
        if checksum or (item != self._sent.get(entry) and (item.kind is not Kind.ABSENT or entry in self._sent)):
            self.moved(entry, entry, False)
        return None

    def sync(self, paths: Iterable[str]) -> dict[str, int]:
        """A full pass of these now; by entry, the number of the pass to wait for. Raises HaError."""
        if why := why_not_send(self._own) or ("" if self._line is not None else self.why):
            raise HaError(f"nothing can be copied now: {why}")
        with self._turn:
            tickets = {}
            for path in paths:
                self._changes.full(path, self._clock())
                self.accounts[path].asked += 1
                tickets[path] = self.accounts[path].done + 1
            self._turn.notify_all()
        return tickets

    def _nudge(self) -> None:
        with self._turn:
            self._turn.notify_all()

    # --- what it tells ------------------------------------------------------------------------------------------------------

    def behind(self, entry: str) -> float:
        """Seconds since its oldest change that the passive doesn't hold; 0: none."""
        with self._turn:
            ask = self._asks.get(entry)
            flying = [since for (name, _), since in self._flying.items() if name == entry]
            oldest = min([self._changes.oldest(entry), ask.since if ask else inf, *flying])
        return 0.0 if oldest == inf else max(0.0, self._clock() - oldest)

    def rows(self) -> list[tuple[Account, float]]:
        return [(account, self.behind(name)) for name, account in list(self.accounts.items())]

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
                self._pause(IDLE)
            elif self._line is None or not self._line.alive:
                wait = RETRY_FIRST if self._connect() else min(RETRY_MOST, wait * 2)
                if self._line is None:
                    self._rest(wait)
            else:
                self._work(self._line)

    def _pause(self, most: float) -> None:
        with self._turn:
            deadline = self._changes.deadline()
            left = most if deadline is None else min(most, deadline - self._clock())
            if left > 0:
                self._turn.wait(left)

    def _rest(self, seconds: float) -> None:
        """Whatever changes meanwhile."""
        end = self._clock() + seconds
        own = self._own
        while self._clock() < end and not self._ended and self._own is own:
            with self._turn:
                self._turn.wait(max(0.0, end - self._clock()))

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
        with self._turn:
            self.notes.pop("entries", None)
            if missing:
                peer = self._config().peer
                self.notes["entries"] = f"module.xml on {peer} does not name {', '.join(missing)}: never put in place there"
            self._line, self.why = line, ""
            for entry in self.accounts:
                self._changes.full(entry, self._clock())
        return True

    def _drop(self, why: str) -> None:
        if self._line is not None:
            self._line.close()
        self._line, self.why = None, why or "the copying session ended"

    def _work(self, line: Line) -> None:
        now = self._clock()
        with self._turn:
            due, full = self._changes.take(now)
            for entry, changes in due.items():
                self._flying[entry, "session"] = changes[0].since
            self._flying |= {(entry, "session"): since for entry, since in full.items()}
        try:
            for entry, since in full.items():
                self._pass(line, entry, since)
            for entry, changes in due.items():
                self._copy(line, entry, changes)
        except Exception as wrong:
            with self._turn:
                for entry, changes in due.items():
                    self._changes.again(entry, changes, now)
                for entry, since in full.items():
                    self._changes.full(entry, since)
            self._drop(str(wrong))
            if not isinstance(wrong, LineLost):
                raise
            log.info("replicated files: %s", wrong)
        finally:
            with self._turn:
                for entry in (*due, *full):
                    self._flying.pop((entry, "session"), None)
        if not due and not full:
            self._pause(IDLE)

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
            return self._ask(entry, Ask(since, None))
        if item.kind is not Kind.ABSENT or entry in self._sent:
            self._copy(line, entry, [Change(entry, since)])
        if not account.error and entry not in self._asks:
            account.done += 1
            self._complete(line, entry, self._clock() - began)
        return None

    def _complete(self, line: Line, entry: str, took: float) -> None:
        header = {"do": "complete", "path": entry, "took": took, "epoch": list(self._own.epoch)}
        line.exchange([frames.encode(header)])

    def _copy(self, line: Line, entry: str, changes: list[Change]) -> None:
        found, trees = self._look_at(entry, changes)
        todo = plan(entry, found, trees)
        if todo.small:
            self._exchange(line, entry, todo.small)
        if todo.whole:
            self._ask(entry, Ask(min(change.since for change in todo.whole), None))
        elif todo.names:
            asked = {change.path: change for change in todo.names}
            self._ask(entry, Ask(min(change.since for change in todo.names), asked))

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
                    self._again(entry, [change], 0.0)
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
        with self._turn:
            if entry in self._during:
                self._during[entry] += [change for change, _ in sent]
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
            if answer.get("refused"):
                raise LineLost(str(answer.get("error")))
            return self._failed(entry, str(answer.get("error")), [change])
        account.copied, account.error = time.time(), ""
        if change.path == entry:
            account.kind, account.size = item.kind.value, item.size
            self._sent[entry] = item
        if unknown := answer.get("unknown"):
            self.notes[entry] = f"{entry}: {unknown} does not exist on {self._config().peer}; it belongs to root there"
        else:
            self.notes.pop(entry, None)
        return None

    def _still_written(self, entry: str, change: Change) -> None:
        """Whoever never stops writing a file gets it copied as it is, by rsync."""
        if self._clock() - change.since < 2 * LONGEST:
            self._again(entry, [change], QUIET)
        else:
            self._ask(entry, Ask(change.since, {change.path: change}))

    def _again(self, entry: str, changes: list[Change], wait: float) -> None:
        with self._turn:
            self._changes.again(entry, changes, self._clock() + wait)

    def _failed(self, entry: str, error: str, changes: list[Change] | None = None) -> None:
        account = self.accounts.get(entry)
        if account is None:
            return
        if account.error != error:
            log.warning("replicated files: %s: %s", entry, error)
        account.error = error
        self._again(entry, changes or [Change(entry, self._clock())], AGAIN)

    # --- the thread of rsync ------------------------------------------------------------------------------------------------

    def _ask(self, entry: str, ask: Ask) -> None:
        with self._turn:
            known = self._asks.get(entry)
            if known is not None:
                known.merge(ask)
            else:
                self._asks[entry] = ask
            self._turn.notify_all()

    def run_bulk(self) -> None:
        while not self._ended:
            with self._turn:
                now = self._clock()
                ready = [entry for entry, ask in self._asks.items() if ask.at <= now]
                if not ready or why_not_send(self._own) or self._line is None:
                    self._turn.wait(IDLE)
                    continue
                entry = ready[0]
                ask = self._asks.pop(entry)
                account = self.accounts.get(entry)
                if account is None:
                    continue
                self._flying[entry, "rsync"] = ask.since
                self._during[entry] = []
                own = self._own
            try:
                self._bulk(account, ask, own)
            except Exception:
                ask.at = self._clock() + AGAIN_MOST
                self._ask(entry, ask)
                raise
            finally:
                with self._turn:
                    self._flying.pop((entry, "rsync"), None)
                    # It may have brought an older content of these, or removed what it did not know of.
                    self._changes.again(entry, self._during.pop(entry, []), self._clock())
                    self._turn.notify_all()

    def _bulk(self, account: Account, ask: Ask, own: Standing) -> None:
        entry = account.entry.name
        bandwidth = self._config().host.files.bandwidth
        transfer = pass_of(account.entry, ask, self._inner(entry), bandwidth)
        began = self._clock()
        whole = ask.changes is None or entry in ask.changes
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
            return None
        if error:
            ask.failures += 1
            if account.error != error:
                log.warning("replicated files: %s: %s", entry, error)
            account.error = error
            ask.at = self._clock() + min(AGAIN_MOST, AGAIN * 2 ** (ask.failures - 1))
            return self._ask(entry, ask)
        account.copied, account.error = time.time(), ""
        if whole:
            if before is not None:
                self._sent[entry], account.size = before, before.size
            account.done += 1
            line = self._line
            if line is not None:
                with contextlib.suppress(LineLost):  # a new connection begins with a full pass
                    self._complete(line, entry, self._clock() - began)
        return None


def _looked_at(path: str) -> Item | None:
    try:
        return look(path)
    except OSError:
        return None
