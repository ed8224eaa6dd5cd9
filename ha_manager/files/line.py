"""The copying channel in a session with the other server's ha_manager.

Promise: what ``exchange`` returns was answered by the other server; anything that goes wrong with the connection is LineLost,
and then nothing is known of what was under way. Several threads may use it. Source: docs/protocols.md ("Replicated files").
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ha_manager.files.direction import Epoch
from runtime import frames
from runtime.errors import HaError, PeerError
from runtime.keys import Keys
from runtime.session import connect

if TYPE_CHECKING:
    import paramiko

    from runtime.session_client import Session

#: as the subsystem of the session is called
SUBSYSTEM = "files"
#: for the answers to one batch (seconds)
LIMIT = 20.0
#: for connecting, and for each step of opening the channel (seconds)
OPENS = 3.0


class LineLost(HaError):
    """Connect again."""


class Line:
    def __init__(self, host: str, port: int, keys: Keys, epoch: Epoch) -> None:
        """Raises HaError, in words, if the other server can't be reached or takes nothing."""
        self._lock = threading.Lock()
        self._reader = frames.Reader()
        self._session: Session = connect(host, keys, lambda: epoch, port=port, timeout=OPENS)
        try:
            self._channel: paramiko.Channel = self._session.subsystem(SUBSYSTEM, OPENS)
            self._channel.settimeout(LIMIT)
        except Exception as wrong:
            self._session.close()
            raise PeerError(
                "ha_manager there takes no files (an older version, or its process of the replicated files does not run)"
            ) from wrong

    @property
    def alive(self) -> bool:
        return self._session.alive

    def close(self) -> None:
        self._session.close()

    def exchange(self, messages: Sequence[bytes]) -> list[dict[str, Any]]:
        """An answer to each."""
        answers: list[dict[str, Any]] = []
        with self._lock:
            try:
                self._channel.sendall(b"".join(messages))
                while len(answers) < len(messages):
                    data = self._channel.recv(1 << 16)
                    if not data:
                        raise LineLost("the other server closed the copying session")
                    answers += [header for header, _ in self._reader.feed(data)]
            except LineLost:
                self.close()
                raise
            except Exception as wrong:  # whatever paramiko meets
                self.close()
                raise LineLost(f"the copying session broke: {wrong or type(wrong).__name__}") from wrong
        return answers
