"""device_uname: who asks gets the name, whatever else he sends; nobody keeps the Manager from its work."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from manager import uname
from manager.uname import DeviceUname, Settings
from runtime.errors import ConfigError
from runtime.loop import Loop

Result = TypeVar("Result")
NAME = "vs-166"


class Bench:
    """A DeviceUname on a free port, whose loop turns while something is asked of it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.device = DeviceUname(self.loop, lambda: NAME, retry_after=0.01)
        self.port = free_port()

    def while_it_runs(self, ask: Callable[[], Result]) -> Result:
        results: list[Result] = []
        asking = threading.Thread(target=lambda: results.append(ask()))
        asking.start()
        while asking.is_alive():
            self.loop.once(0.01)
        return results[0]

    def get(self, path: str = "/device_uname", method: str = "GET") -> tuple[int, bytes]:
        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()

        return self.while_it_runs(ask)

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), 5)
        self.loop.once(1)
        return made


def free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.device.configure(Settings(made.port, 20))
    assert made.device.trouble == ""
    yield made
    made.device.close()
    made.loop.close()


@pytest.mark.parametrize("path", ["/", "/device_uname", "/device_uname?x=1"])
def test_says_the_name(bench: Bench, path: str) -> None:
    assert bench.get(path) == (200, b"vs-166\n")


def test_says_nothing_else(bench: Bench) -> None:
    assert bench.get("/etc/passwd")[0] == 404
    assert bench.get("/device_uname/../x")[0] == 404
    assert bench.get(method="POST")[0] == 405
    assert bench.get(method="HEAD") == (200, b"")


@pytest.mark.parametrize("rubbish", [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 9000, b"GET / FTP\r\n\r\n"])
def test_rubbish_is_answered_and_forgotten(bench: Bench, rubbish: bytes) -> None:
    caller = bench.connect()
    caller.sendall(rubbish)
    assert bench.while_it_runs(lambda: caller.recv(100)).startswith(b"HTTP/1.1 400 ")
    caller.close()
    assert bench.get() == (200, b"vs-166\n")


def test_a_request_in_pieces(bench: Bench) -> None:
    caller = bench.connect()
    for piece in (b"GET /dev", b"ice_uname HTTP/1.0\r\nHost: x\r\n", b"\r\n"):
        caller.sendall(piece)
        bench.loop.once(1)
    assert bench.while_it_runs(lambda: caller.recv(1000)).endswith(b"\r\n\r\nvs-166\n")


def test_a_caller_that_says_nothing_is_let_go_after_its_time(bench: Bench) -> None:
    bench.device.configure(Settings(bench.port, 1))
    caller = bench.connect()
    assert bench.while_it_runs(lambda: caller.recv(1)) == b""


def test_a_caller_that_never_ends_is_let_go(bench: Bench) -> None:
    caller = bench.connect()

    def flood() -> bool:
        try:
            for _ in range(10_000):
                caller.sendall(b"x" * 8192)
        except OSError:
            return True
        return False

    assert bench.while_it_runs(flood)


def test_many_silent_callers_keep_nobody_away(bench: Bench) -> None:
    silent = [bench.connect() for _ in range(50)]
    assert bench.get() == (200, b"vs-166\n")
    for caller in silent:
        caller.close()


def test_a_port_that_is_taken_is_told_and_tried_again(bench: Bench) -> None:
    with socket.create_server(("", 0)) as other:
        taken = int(other.getsockname()[1])
        bench.device.configure(Settings(taken, 20))
        assert f"on port {taken}: Address already in use" in bench.device.trouble
    bench.port = taken
    while bench.device.trouble:
        bench.loop.once(1)
    assert bench.get() == (200, b"vs-166\n")


def test_is_not_answered_where_nobody_wants_it(bench: Bench) -> None:
    bench.device.configure(None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", bench.port), 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<device_undef port="5222" timeout="20"/>', Settings(5222, 20)),
        ('<device_uname port="80"/>', Settings(80, 20)),
        ('<device_undef port="1"/><device_uname port="2" timeout="3"/>', Settings(2, 3)),
        ("<ha/>", None),
    ],
)
def test_where_it_is_answered(tmp_path: Path, text: str, expected: Settings | None) -> None:
    (tmp_path / "module.xml").write_text(f"<module><init>{text}</init></module>")
    assert uname.read(tmp_path / "module.xml") == expected


def test_a_device_without_a_pair_answers_nowhere(tmp_path: Path) -> None:
    assert uname.read(tmp_path / "module.xml") is None


@pytest.mark.parametrize(
    "text", ['<device_undef port="http"/>', '<device_undef port="0"/>', '<device_undef timeout="0"/>', "<"]
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "module.xml").write_text(f"<module><init>\n{text}</init></module>")
    with pytest.raises(ConfigError, match=r"module\.xml:2"):
        uname.read(tmp_path / "module.xml")
