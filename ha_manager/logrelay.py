"""``python -m ha_manager.logrelay [--foreground]``: gives this server's system log to the other policy server.

Promise: exactly the pinned key of the other server gets it, as it gets into a session of ha_manager; all that it can ask for
is how many lines, and whether new ones are to follow. A reader that is slow, or gone, costs one thread and one process that
end with its session. Nothing of what serves and fails over depends on this process. Exit status: 0 stopped as asked; 1
failed; 6 not configured. Source: Trustwave §2 (logrelay); docs/protocols.md ("logrelay").
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ha_manager import systemlog
from ha_manager.config import Config, load
from ha_manager.host import Host
from ha_manager.local import addresses
from ha_manager.starting import start
from runtime import service
from runtime.errors import ConfigError, HaError
from runtime.keys import Keys
from runtime.loop import Loop
from runtime.session import Limits, connect, serve

if TYPE_CHECKING:
    import paramiko

    from runtime.session_client import Session
    from runtime.session_server import SessionServer

log = logging.getLogger(__name__)

SUBSYSTEM = "logs"
PID_FILE = Path("/run/logrelay/logrelay.pid")
#: from one look at the configuration, or attempt to listen, to the next (seconds)
PERIOD = 2.0
#: for the request, its answer, and to notice that a reader is gone (seconds)
LOGIN, GLANCE = 5.0, 0.5
_REQUEST_LIMIT = 4096
_CHUNK = 32768
#: of readers: the ninth ends the first
_LIMITS = replace(Limits(), sessions=8)

Source = Callable[[int, bool], tuple[str, ...]]


# --- the side that gives ----------------------------------------------------------------------------------------------------


class Relay:
    """Listens, and serves each reader in a thread of its own. ``trouble``: why it doesn't listen, or ""."""

    def __init__(self, keys: Keys, source: Source = systemlog.command) -> None:
        self._keys = keys
        self._source = source
        self._server: SessionServer | None = None
        self._place: tuple[str, int] | None = None
        self.trouble = ""

    def listen(self, address: str, port: int) -> None:
        """Be there; nothing happens if it is already. What prevents it is told once, and tried again at the next call."""
        if self._server is not None and self._place == (address, port):
            return
        self.close()
        try:
            self._server = serve(self._keys, {}, [address], port=port, limits=_LIMITS, subsystems={SUBSYSTEM: self._open})
        except HaError as wrong:
            if self.trouble != str(wrong):
                log.error("%s; it is tried again", wrong)
            self.trouble = str(wrong)
            return
        self._place, self.trouble = (address, port), ""

    @property
    def port(self) -> int:
        return self._server.port if self._server is not None else 0

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _open(self, channel: paramiko.Channel) -> None:
        threading.Thread(target=self._serve, args=(channel,), name="reader", daemon=True).start()

    def _serve(self, channel: paramiko.Channel) -> None:
        try:
            lines, follow = _asked(_line(channel))
            child = subprocess.Popen(
                self._source(lines, follow), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except (HaError, OSError) as wrong:
            _send(channel, json.dumps({"ok": False, "error": str(wrong)}).encode() + b"\n")
            _close(channel)
            return
        log.info("the other server reads the system log%s", " and follows it" if follow else "")
        try:
            _pump(child, channel)
        finally:
            child.kill()
            child.wait()
            _close(channel)


def _asked(line: bytes) -> tuple[int, bool]:
    try:
        match json.loads(line):
            case {"lines": int(lines), "follow": bool(follow)} if 0 <= lines <= systemlog.MOST:
                return lines, follow
    except ValueError:
        pass
    raise HaError(f"a request has lines (0 to {systemlog.MOST}) and follow; the two servers may run different versions")


def _pump(child: subprocess.Popen[bytes], channel: paramiko.Channel) -> None:
    """Until the log's command ends, or the reader is gone."""
    assert child.stdout is not None
    if not _send(channel, b'{"ok": true}\n'):
        return
    with child.stdout as output:
        while not _gone(channel):
            if not select.select([output], [], [], GLANCE)[0]:
                continue
            data = os.read(output.fileno(), _CHUNK)
            if not data or not _send(channel, data):
                return


def _send(channel: paramiko.Channel, data: bytes) -> bool:
    """Wait for a reader that takes its time, as long as he is there; False: he is gone."""
    channel.settimeout(GLANCE)
    while data:
        try:
            data = data[channel.send(data) :]
        except TimeoutError:
            if _gone(channel):
                return False
        except (OSError, EOFError):
            return False
    return True


def _close(channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError):  # it says so to the other end, which may be gone
        channel.close()


def _gone(channel: paramiko.Channel) -> bool:
    return bool(channel.closed or channel.eof_received or not channel.get_transport().is_active())


def _line(channel: paramiko.Channel) -> bytes:
    """The first line that the other end sends. Raises HaError."""
    channel.settimeout(LOGIN)
    line = b""
    while not line.endswith(b"\n"):
        try:
            byte = channel.recv(1)  # not more: what follows is the log
        except OSError as wrong:
            raise HaError("the other server said nothing") from wrong
        if not byte or len(line) > _REQUEST_LIMIT:
            raise HaError("the other server broke off" if not byte else "the line has no end")
        line += byte
    return line


# --- the side that reads ----------------------------------------------------------------------------------------------------


def read_peer(config: Config, lines: int, follow: bool, write: Callable[[bytes], object]) -> None:
    """The other server's system log to ``write``; followed, until the session ends. Raises HaError."""
    keys = Keys(config.host.paths.keys)
    session = connect(config.peer_ip, keys, lambda: (0, ""), port=config.site.logrelay_port, timeout=LOGIN, limits=_LIMITS)
    try:
        channel = _subsystem(session)
        if not _send(channel, json.dumps({"lines": lines, "follow": follow}).encode() + b"\n"):
            raise HaError(f"{config.peer} ended the connection: {session.because}")
        answer = json.loads(_line(channel))
        if not answer.get("ok"):
            raise HaError(f"{config.peer}: {answer.get('error')}")
        channel.settimeout(None)
        while data := channel.recv(_CHUNK):
            write(data)
        if not session.alive or follow:
            raise HaError(f"{config.peer} ended the connection: {session.because or 'its log can not be followed any more'}")
    finally:
        session.close()


def _subsystem(session: Session) -> paramiko.Channel:
    import paramiko

    try:
        return session.subsystem(SUBSYSTEM, LOGIN)
    except (paramiko.SSHException, OSError, EOFError) as wrong:
        raise HaError(f"the other server gives no log: {wrong or type(wrong).__name__}") from wrong


# --- the process ------------------------------------------------------------------------------------------------------------


class Process:
    """Keeps the relay where the configuration says; one that can't be used any more leaves it where it is."""

    def __init__(self, loop: Loop, read: Callable[[], Config] = lambda: load(addresses())) -> None:
        self._loop = loop
        self._read = read
        self._config = read()
        self._stamps = self._look()
        self.relay = Relay(Keys(self._config.host.paths.keys))

    def turn(self) -> None:
        if (stamps := self._look()) != self._stamps:
            self._stamps = stamps
            self.reread()
            self.relay.close()  # it may have to listen elsewhere, or with other keys
        self.relay.listen(self._config.own_ip, self._config.site.logrelay_port)
        self._loop.call_after(PERIOD, self.turn)

    def reread(self) -> None:
        try:
            self._config = self._read()
        except ConfigError as wrong:
            log.error("refused, the configuration before it stays in force: %s", wrong)

    def end(self) -> None:
        self.relay.close()

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        keys = self._config.host.paths.keys
        return tuple(map(_stamp, (self._config.module_xml, self._config.conf, keys / "node.key", keys / "peer.pub")))


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Changes with the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def _body(own: service.Service, host: Host) -> int:
    loop = Loop()
    process = Process(loop)

    def on_signal(number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            process.reread()
        elif number in (signal.SIGTERM, signal.SIGINT):
            loop.stop()

    own.register(loop.selector, on_signal)
    process.turn()
    own.ready()
    loop.run()
    process.end()
    return 0


def main(argv: list[str]) -> None:
    start("logrelay", "ha_manager.logrelay", argv, lambda host: PID_FILE, _body)


if __name__ == "__main__":
    main(sys.argv[1:])
