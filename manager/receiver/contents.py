"""The channel on which contents come: frames, one after the other, without waiting for an answer to each.

Promise: only contents that a preparation under way lacks are taken, and only whole and undamaged ones kept; the last frame of a
round, ``{"do": "end"}``, is answered when everything before it has been written, with ``ok``; what went wrong is answered at
once, and then the channel is closed. Source: docs/protocols.md ("The session with a device").

A round: ``{"do": "begin"}``; ``{"sha", "offset", "last"}`` with at most 256 KiB each, the offsets of one content following each
other; ``{"do": "end"}``. There may be many on one channel; it ends with its session at the latest.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from typing import TYPE_CHECKING, Any

from manager.receiver.service import Receiver, full
from manager.receiver.trees import Incoming
from runtime import frames
from runtime.errors import HaError
from runtime.session import Refusal

if TYPE_CHECKING:
    import paramiko

log = logging.getLogger(__name__)

SUBSYSTEM = "contents"
_CHUNK = 1 << 18


class Contents:
    """One channel's worth."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._coming: Incoming | None = None
        self._sha = ""

    def take(self, header: dict[str, Any], content: bytes) -> bool:
        """One frame; True: it was the last one of a round. Raises HaError, OSError."""
        if (do := header.get("do")) in ("begin", "end"):
            if self._coming is not None:
                raise Refusal("the last content has no end", "malformed")
            return bool(do == "end")
        sha, offset = header.get("sha"), header.get("offset")
        if not isinstance(sha, str) or not isinstance(offset, int):
            raise Refusal("a frame has sha and offset", "malformed")
        if self._coming is None:
            self._coming, self._sha = self._receiver.incoming(sha), sha
        if (sha, offset) != (self._sha, self._coming.count):
            raise Refusal("the frames are out of order", "malformed")
        self._coming.add(content)
        if header.get("last") is True:
            self._coming.finish()
            self._coming = None
        return False

    def discard(self) -> None:
        if self._coming is not None:
            self._coming.discard()
            self._coming = None


def opener(receiver: Receiver) -> Any:
    """A subsystem of the session."""

    def opened(channel: paramiko.Channel) -> None:
        threading.Thread(target=_serve, args=(receiver, channel), name="contents", daemon=True).start()

    return opened


def _serve(receiver: Receiver, channel: paramiko.Channel) -> None:
    contents, reader = Contents(receiver), frames.Reader()
    channel.settimeout(None)
    try:
        while data := channel.recv(_CHUNK):
            for header, content in reader.feed(data):
                if contents.take(header, content):
                    channel.sendall(frames.encode({"ok": True}))
    except HaError as wrong:
        _refuse(channel, str(wrong), getattr(wrong, "fields", {}))
    except ValueError as wrong:
        _refuse(channel, f"not understood: {wrong}", {"code": "malformed"})
    except OSError as wrong:
        if wrong.errno in (errno.ENOSPC, errno.EDQUOT):
            receiver.make_room()
            _refuse(channel, full(wrong), {"code": "full"})
        else:
            log.info("the contents ended: %s", wrong)
    finally:
        contents.discard()
        with contextlib.suppress(OSError, EOFError):
            channel.close()


def _refuse(channel: paramiko.Channel, why: str, fields: Any) -> None:
    log.warning("contents were refused: %s", why)
    with contextlib.suppress(OSError, EOFError):
        channel.sendall(frames.encode({**fields, "ok": False, "error": why}))
