"""The passive's end of the session's copying: takes small files into the staging directory.

Promise: before each message it is asked anew whether this sender may write; a refusal is told in words and changes nothing.
What came together is flushed together, and answered when it is on the disk. One thread a connection; a sender that breaks off
leaves no half file. Source: docs/protocols.md ("Replicated files").
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ha_manager.files.direction import Epoch
from ha_manager.files.items import Kind, item_of
from ha_manager.files.record import Refusal
from ha_manager.files.staging import Batch, Put, Staging
from runtime import frames
from runtime.control import listen
from runtime.errors import HaError

log = logging.getLogger(__name__)

_PUT = {kind.value: kind for kind in (Kind.FILE, Kind.FOLDER, Kind.LINK)}


Message = tuple[dict[str, Any], bytes]
Answer = dict[str, Any]


class Holder(Protocol):
    """Who says what may be taken, and hears what came."""

    def admit(self, epoch: Epoch) -> None:
        """Raises Refusal if the active of that epoch may not write here now."""

    def greeting(self) -> dict[str, Any]: ...

    def complete(self, entry: str, epoch: Epoch, took: float, by_content: bool) -> None: ...

    def took(self, path: str) -> None: ...


class Receiver:
    """Serves ``path``, to which ha_manager connects what the peer opened in its session."""

    def __init__(self, path: Path, staging: Staging, holder: Holder) -> None:
        self._staging, self._holder = staging, holder
        self._socket = listen(path)
        self._socket.setblocking(True)
        self._connections: set[socket.socket] = set()
        #: held while a file is written: whoever has it knows that nothing is under way
        self.writing = threading.Lock()
        threading.Thread(target=self._accept, name="receiver", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="receiving", daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def hang_up(self) -> None:
        """The other server connects again, and hears anew what is named here."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket) -> None:
        reader = frames.Reader()
        self._connections.add(connection)
        with connection:
            try:
                while data := connection.recv(1 << 18):
                    answers = self.take(list(reader.feed(data)))
                    connection.sendall(b"".join(frames.encode(answer) for answer in answers))
            except (OSError, ValueError, RecursionError) as wrong:
                log.info("the copying session of the other server ended: %s", wrong)
            finally:
                self._connections.discard(connection)

    def take(self, messages: Sequence[Message]) -> list[Answer]:
        """The answer to each; all that was put is on the disk by then."""
        with self.writing, self._staging.batch() as batch:
            begun = [self._begin(batch, header, content) for header, content in messages]
            try:
                batch.settle()
            except OSError as wrong:
                return [_failed(wrong) for _ in messages]
        return [_ended(each) if isinstance(each, Put) else each for each in begun]

    def _begin(self, batch: Batch, header: dict[str, Any], content: bytes) -> Put | Answer:
        try:
            number, node = header["epoch"]
            epoch, do, path = (int(number), str(node)), header["do"], str(header.get("path", ""))
            self._holder.admit(epoch)
            if do not in _PUT:
                return {"ok": True} | self._other(batch, do, path, epoch, header)
            put = batch.put(path, item_of(_PUT[do], header), content)
            if isinstance(names := header.get("names"), list):
                batch.settle()
                self._staging.only(path, {str(name) for name in names})
            self._holder.took(path)
            return put
        except (HaError, OSError) as wrong:
            return _failed(wrong)
        except (KeyError, TypeError, ValueError, OverflowError) as wrong:
            return {"ok": False, "error": f"not understood: {wrong!r}", "refused": False}

    def _other(self, batch: Batch, do: str, path: str, epoch: Epoch, header: dict[str, Any]) -> Answer:
        """What waits for all that came before it."""
        batch.settle()
        if do == "hello":
            return self._holder.greeting()
        if do == "complete":
            self._holder.complete(path, epoch, float(header["took"]), bool(header.get("checksum")))
        elif do == "remove":
            self._staging.remove(path)
        else:
            raise ValueError(do)
        return {}


def _ended(put: Put) -> Answer:
    return _failed(put.wrong) if put.wrong is not None else {"ok": True, "unknown": put.missing}


def _failed(wrong: Exception) -> Answer:
    return {"ok": False, "error": str(wrong), "refused": isinstance(wrong, Refusal)}
