"""The log of the other server, over real SSH on 127.0.0.1: all of it, followed over a rotation, and nobody else gets it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ha_manager import systemlog
from ha_manager.config import Config
from ha_manager.host import Host, Paths
from ha_manager.logrelay import SUBSYSTEM, Process, Relay, read_peer
from ha_manager.site import Server, Site
from runtime.errors import ConfigError, HaError
from runtime.keys import Keys
from runtime.loop import Loop
from runtime.proctree import processes
from runtime.session import KeyChanged, connect


class Bench:
    """vs-28 gives its log, vs-166 reads it; both in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "syslog"
        self.log.write_text("".join(f"line {number}\n" for number in range(1, 101)))
        own, peer = Keys(folder / "a/keys"), Keys(folder / "b/keys")
        own.make("vs-166")
        peer.make("vs-28")
        own.accept(peer.show().line)
        peer.accept(own.show().line)
        journal = folder / "journalctl"
        self.relay = Relay(peer, lambda lines, follow: systemlog.command(lines, follow, files=(self.log,), journal=journal))
        self.relay.listen("127.0.0.1", 0)
        assert self.relay.trouble == ""
        self.read = b""

    def config(self, etc: str = "a") -> Config:
        site = Site(True, Server("127.0.0.2"), Server("127.0.0.1"), logrelay_port=self.relay.port)
        return Config(site, Host(paths=Paths(etc=self.folder / etc)), True, "vs-166", "vs-28")

    def take(self, lines: int = 50, *, follow: bool = False, etc: str = "a") -> bytes:
        self.read = b""

        def write(data: bytes) -> None:
            self.read += data

        read_peer(self.config(etc), lines, follow, write)
        return self.read

    @contextlib.contextmanager
    def following(self) -> Iterator[list[str]]:
        """Reads beside the test; yields where the words of its end will be."""
        ends: list[str] = []

        def follow() -> None:
            try:
                self.take(2, follow=True)
            except HaError as ended:
                ends.append(str(ended))

        reader = threading.Thread(target=follow)
        reader.start()
        try:
            until(lambda: self.read == b"line 99\nline 100\n")
            yield ends
        finally:
            self.relay.close()
            reader.join(10)
        assert not reader.is_alive()

    def commands(self) -> int:
        """How many commands read the log."""
        children = [each for each in processes() if each.parent == os.getpid()]
        return sum(str(self.log).encode() in words(each.pid) for each in children)


def words(pid: int) -> bytes:
    """The command line; nothing of one that has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    try:
        yield made
    finally:
        made.relay.close()


def test_the_latest_lines(bench: Bench) -> None:
    assert bench.take(3) == b"line 98\nline 99\nline 100\n"
    assert bench.take(0) == b""


def test_all_of_a_long_log(bench: Bench) -> None:
    bench.log.write_bytes(b"".join(b"%09d \xff no utf-8, and longer than a packet\n" % number for number in range(60_000)))
    assert bench.take(systemlog.MOST) == bench.log.read_bytes()
    until(lambda: not bench.commands())


def test_follows_over_a_rotation(bench: Bench) -> None:
    with bench.following() as ends:
        with bench.log.open("a") as log:
            log.write("line 101\n")
        until(lambda: bench.read.endswith(b"line 101\n"))
        bench.log.rename(bench.folder / "syslog.1")
        bench.log.write_text("line 102\n")
        until(lambda: bench.read.endswith(b"line 101\nline 102\n"))
        assert ends == []
    assert "vs-28 ended the connection" in ends[0]


def test_a_reader_that_goes_leaves_nothing_behind(bench: Bench) -> None:
    session = connect("127.0.0.1", Keys(bench.folder / "a/keys"), lambda: (0, ""), port=bench.relay.port)
    channel = session.transport.open_session(timeout=5)
    channel.invoke_subsystem(SUBSYSTEM)
    channel.sendall(b'{"lines": 1, "follow": true}\n')
    assert channel.recv(100).startswith(b'{"ok": true}\n')
    assert bench.commands() == 1
    session.transport.close()
    until(lambda: not bench.commands())


def test_a_reader_that_does_not_read_holds_up_nobody_else(bench: Bench) -> None:
    bench.log.write_bytes(b"x" * 99 + b"\n" + b"y" * 8_000_000 + b"\n")
    session = connect("127.0.0.1", Keys(bench.folder / "a/keys"), lambda: (0, ""), port=bench.relay.port)
    channel = session.transport.open_session(timeout=5)
    channel.invoke_subsystem(SUBSYSTEM)
    channel.sendall(b'{"lines": 9, "follow": false}\n')
    until(lambda: bench.commands() == 1)
    assert len(bench.take(9)) == 8_000_101
    session.close()
    until(lambda: not bench.commands())


RUBBISH = [
    b"rubbish\n",
    b"[]\n",
    b"{}\n",
    b'{"lines": -1, "follow": false}\n',
    b'{"lines": "; reboot", "follow": false}\n',
    b"x" * 9000,
]


@pytest.mark.parametrize("request_line", RUBBISH)
def test_asks_for_nothing_else(bench: Bench, request_line: bytes) -> None:
    session = connect("127.0.0.1", Keys(bench.folder / "a/keys"), lambda: (0, ""), port=bench.relay.port)
    channel = session.transport.open_session(timeout=5)
    channel.invoke_subsystem(SUBSYSTEM)
    channel.sendall(request_line)
    answer = json.loads(channel.recv(4096))
    assert answer["ok"] is False and answer["error"]
    session.close()


def test_a_stranger_gets_nothing(bench: Bench) -> None:
    stranger = Keys(bench.folder / "c/keys")
    stranger.make("vs-166")
    stranger.accept(Keys(bench.folder / "b/keys").show().line)
    with pytest.raises(KeyChanged, match="doesn't accept this server's key"):
        bench.take(etc="c")
    assert bench.read == b""


def test_somebody_else_in_its_place_is_not_believed(bench: Bench) -> None:
    other = Keys(bench.folder / "c/keys")
    other.make("vs-28")
    Keys(bench.folder / "a/keys").accept(other.show().line, replace=True)
    with pytest.raises(KeyChanged, match="another key than the pinned one"):
        bench.take()


def test_what_the_other_server_can_not_do_is_told(bench: Bench) -> None:
    bench.log.unlink()
    with pytest.raises(HaError, match=r"vs-28: there is no system log here: neither .*syslog, and no journal"):
        bench.take()


def test_a_server_without_a_relay(bench: Bench) -> None:
    config = bench.config()
    bench.relay.close()
    with pytest.raises(HaError, match=r"vs-28 \(127\.0\.0\.1:\d+\) can't be reached"):
        read_peer(config, 1, False, lambda data: None)


def test_a_port_that_is_taken_is_told_and_tried_again(bench: Bench) -> None:
    second = Relay(Keys(bench.folder / "b/keys"))
    second.listen("127.0.0.1", bench.relay.port)
    assert "can't listen on 127.0.0.1" in second.trouble
    port = bench.relay.port
    bench.relay.close()
    second.listen("127.0.0.1", port)
    assert (second.trouble, second.port) == ("", port)
    second.close()


def test_the_process_follows_its_configuration(bench: Bench) -> None:
    """Another port, other keys: without a restart. What can't be used leaves the relay where it is."""
    module = bench.folder / "module.xml"
    module.write_text("first")
    wrong = False

    def read() -> Config:
        if wrong:
            raise ConfigError("wrong")
        site = Site(True, Server("127.0.0.1"), Server("127.0.0.2"), logrelay_port=ports[0])
        return Config(site, Host(paths=Paths(etc=bench.folder / "b")), True, "vs-28", "vs-166", module, bench.folder / "conf")

    ports = [free_port(), free_port()]
    loop = Loop()
    process = Process(loop, read)
    process.turn()
    assert process.relay.port == ports[0]
    before = ports.pop(0)
    process.turn()
    assert process.relay.port == before, "nothing has changed on the disk"
    module.write_text("the second")
    process.turn()
    assert process.relay.port == ports[0]
    Keys(bench.folder / "b/keys").make("vs-28", force=True)
    Keys(bench.folder / "a/keys").accept(Keys(bench.folder / "b/keys").show().line, replace=True)
    Keys(bench.folder / "b/keys").accept(Keys(bench.folder / "a/keys").show().line)
    wrong = True
    process.turn()
    session = connect("127.0.0.1", Keys(bench.folder / "a/keys"), lambda: (0, ""), port=ports[0])
    assert session.alive
    session.close()
    process.end()
    loop.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("there", "follow", "expected"),
    [
        (("syslog", "messages"), False, "/usr/bin/tail -n 7 -- {}/syslog"),
        (("messages", "journalctl"), True, "/usr/bin/tail -n 7 -F -- {}/messages"),
        (("journalctl",), False, "{}/journalctl --quiet --no-pager -o short-iso -n 7"),
        (("journalctl",), True, "{}/journalctl --quiet --no-pager -o short-iso -n 7 -f"),
    ],
)
def test_how_the_log_is_read(tmp_path: Path, there: tuple[str, ...], follow: bool, expected: str) -> None:
    for name in there:
        (tmp_path / name).touch()
    files = (tmp_path / "syslog", tmp_path / "messages")
    argv = systemlog.command(7, follow, files=files, journal=tmp_path / "journalctl")
    assert " ".join(argv) == expected.format(tmp_path)
