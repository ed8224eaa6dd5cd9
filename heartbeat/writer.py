"""The writer: a small process that does heartbeat's fsyncs, because one can take seconds on a bad day (design §5).

Promise: heartbeat never waits for the disk. Records are written one after the other in the order of ``persist``; each is
answered, ``Persisted`` only after the fsync of file and folder. A full disk takes one too (``reserve``). A writer that dies is
replaced and given what it left undone; one that dies over the same record again and again is answered for with
``PersistFailed``. One that somebody stopped (SIGSTOP) is woken within seconds, also when heartbeat has died; one that waits for
the disk is told (``hangs``). It ends when heartbeat has ended, a write under way and the history included, and holds the
store's lock until then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from heartbeat.model import Persisted, PersistFailed, Record
from heartbeat.store import HISTORY, Store, record_to_json
from runtime import child
from runtime.clock import boottime
from runtime.durable import write_durably

#: deaths over one and the same record before it is given up
_TRIES = 3
_HISTORY_BYTES = 64 * 1024
_MESSAGE = 65536
#: without an answer for so long it is woken, in case somebody stopped it, and then told (seconds)
_WAKE, _TELL = 0.5, 3.0
#: a server whose disk does not answer for so long can do nothing for the pair (seconds)
_LOST = 10.0


class Writer:
    """Heartbeat's end. ``fileno`` becomes readable when ``answers`` has something; ``pending`` while a record is under way."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: called when another socket is behind ``fileno``: epoll has forgotten the number, and must be told
        self.replaced: Callable[[], None] = lambda: None
        self._socket: socket.socket | None = None
        self._pid = 0
        #: not yet answered, oldest first: (serial, message)
        self._open: deque[tuple[int, bytes]] = deque()
        #: not yet taken by the socket
        self._queue: deque[bytes] = deque()
        self._deaths = 0
        #: sent and not yet answered; since when nothing has been
        self._unanswered, self._silent_since = 0, 0.0
        #: in words, while it has not answered for long; "" if it does
        self.hangs = ""
        self.lost = False
        #: why there is no room kept for the next record; "" if there is
        self.no_room = ""
        self._looking = False
        self._start()

    def fileno(self) -> int:
        assert self._socket is not None
        return self._socket.fileno()

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def pending(self) -> bool:
        return bool(self._open)

    def persist(self, serial: int, record: Record) -> None:
        message = json.dumps({"serial": serial, "record": record_to_json(record)}).encode()
        self._open.append((serial, message))
        self._send(message)

    def remember(self, change: Mapping[str, Any]) -> None:
        """Append one line to the history; nothing depends on it."""
        message = json.dumps({"history": change}).encode()
        if len(message) <= _MESSAGE:
            self._send(message)

    def settle(self, generation: int) -> None:
        """Make the generation, already written, last."""
        self._send(json.dumps({"generation": generation}).encode())

    def look(self) -> None:
        """See whether there is room for the next record: ``no_room``, when it is answered."""
        if not self._looking:
            self._looking = True
            self._send(b"{}")

    def answers(self) -> list[Persisted | PersistFailed]:
        """What has been answered since the last call; replaces a writer that died."""
        events: list[Persisted | PersistFailed] = []
        while True:
            assert self._socket is not None
            try:
                data = self._socket.recv(_MESSAGE)
            except BlockingIOError:
                return events
            except OSError:
                data = b""
            if not data:
                events += self._replace()
                return events
            self._unanswered, self._silent_since = max(0, self._unanswered - 1), boottime()
            self._flush()
            answer = json.loads(data)
            self.no_room, self._looking = answer.get("no_room", self.no_room), False
            if "serial" not in answer:
                continue
            if self._open and self._open[0][0] == answer["serial"]:
                self._open.popleft()
                self._deaths = 0
            error = answer.get("error")
            serial = answer["serial"]
            events.append(Persisted(serial) if error is None else PersistFailed(serial, error))

    def tick(self, now: float) -> None:
        """Wake a writer that doesn't answer: to one that waits for the disk it does nothing."""
        silent = now - self._silent_since if self._unanswered else 0.0
        if silent > _WAKE:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGCONT)
        folder = self._store.folder
        self.hangs = f"the state of the pair can't be written: the disk of {folder} does not answer" if silent > _TELL else ""
        self.lost = silent > _LOST

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # --- inside -------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = child.fork()
        if pid == 0:
            _serve(theirs.fileno(), self._store)
        theirs.close()
        ours.setblocking(False)
        self._socket, self._pid = ours, pid

    def _replace(self) -> list[PersistFailed]:
        old = self._socket
        self._reap()
        failed: list[PersistFailed] = []
        self._deaths += 1
        if self._deaths >= _TRIES and self._open:
            serial, _ = self._open.popleft()
            self._deaths = 0
            failed.append(PersistFailed(serial, f"the writer died {_TRIES} times over it"))
        self._queue.clear()
        self._looking, self._unanswered = False, 0
        self._start()
        # The number of the descriptor stays the same, by which a selector knows it.
        assert old is not None and self._socket is not None
        number = old.detach()
        os.dup2(self._socket.fileno(), number, inheritable=False)
        fresh = socket.socket(fileno=number)
        fresh.setblocking(False)
        self._socket.close()
        self._socket = fresh
        self.replaced()
        for _, message in self._open:
            self._send(message)
        return failed

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)

    def _send(self, message: bytes) -> None:
        if not self._unanswered:
            self._silent_since = boottime()
        self._unanswered += 1
        self._queue.append(message)
        self._flush()

    def _flush(self) -> None:
        assert self._socket is not None
        while self._queue:
            try:
                self._socket.send(self._queue[0])
            except OSError:
                # Full: the writer hangs in an fsync; its next answer brings us back. Dead: ``answers`` will see it.
                return
            self._queue.popleft()


# --- the other process ----------------------------------------------------------------------------------------------------


def _serve(connection: int, store: Store) -> NoReturn:
    """Body of the writer process; ends with the connection."""
    code = 1
    try:
        # Stopped while heartbeat dies, it would keep the lock, and no other heartbeat could start.
        child.signal_at_parents_end(signal.SIGCONT)
        _detach({connection, store.lock})
        with socket.socket(fileno=connection) as channel:
            try:
                while data := channel.recv(_MESSAGE):
                    # Everything is answered: an answer is what makes heartbeat send what waits for room in the socket.
                    channel.send(json.dumps(_carry_out(json.loads(data), store)).encode())
            except (BrokenPipeError, ConnectionResetError):
                _last_words(channel, store)
        code = 0
    finally:
        os._exit(code)


def _last_words(channel: socket.socket, store: Store) -> None:
    """heartbeat has ended. What it had to say last is still in the socket: the history is written down, without an fsync; a
    record that nobody waits for any more is not.
    """
    while True:
        try:
            data = channel.recv(_MESSAGE)
        except ConnectionResetError:  # told once, before what waits: heartbeat ended with an answer unread
            continue
        if not data:
            return
        request = json.loads(data)
        if "history" in request:
            _carry_out(request, store)


def _detach(keep: set[int]) -> None:
    """Neither heartbeat's sockets nor its signals are the writer's."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    child.listen()
    at = 3
    for fd in sorted(fd for fd in keep if fd >= 3):
        os.closerange(at, fd)
        at = fd + 1
    os.closerange(at, 65536)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("heartbeat-write")


def _carry_out(request: dict[str, Any], store: Store) -> dict[str, Any]:
    if "record" in request:
        try:
            store.reserve.write(store.record_file, json.dumps(request["record"], indent=1) + "\n")
        except OSError as error:
            return {"serial": request["serial"], "error": f"{store.record_file}: {error.strerror}"}
        # made again before anything else, the history included, can take the room
        return {"serial": request["serial"], "no_room": store.reserve.keep()}
    with contextlib.suppress(OSError):
        if "generation" in request:
            store.reserve.write(store.generation_file, f"{request['generation']}\n")
        elif "history" in request:
            _append(store.history_file, json.dumps(request["history"], ensure_ascii=False))
            return {}
    return {"no_room": store.reserve.keep()}


def _append(file: Path, line: str) -> None:
    with open(file, "a", encoding="utf-8") as opened:
        opened.write(line + "\n")
        size = opened.tell()
    if size > _HISTORY_BYTES:
        kept = file.read_text(encoding="utf-8", errors="replace").splitlines()[-HISTORY:]
        while sum(map(len, kept)) > _HISTORY_BYTES // 2:
            del kept[0]
        write_durably(file, "\n".join(kept) + "\n", mode=0o600, durable=False)
