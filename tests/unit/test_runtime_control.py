"""channel and control, over real Unix sockets; the server runs in the test's own loop."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.channel import LINE_LIMIT, Lines
from runtime.control import Client, ControlServer, LoopClient, Request
from runtime.errors import ControlError, NotRunning, Refused
from runtime.loop import Loop


class Served:
    """A server whose loop runs in a thread, for blocking clients."""

    def __init__(self, path: Path, output_limit: int) -> None:
        self.loop = Loop()
        self.closed = 0
        self.later: list[Request] = []
        self.server = ControlServer(
            path, self.loop.selector,
            {"echo": lambda r: r.fields, "refuse": self.refuse, "bug": self.bug, "big": lambda _: {"x": "y" * LINE_LIMIT},
             "later": self.later.append, "subscribe": self.subscribe, "pushy": self.pushy, "sleep": lambda _: time.sleep(0.5)},
            on_close=lambda _: self.count(), output_limit=output_limit,
        )  # fmt: skip
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.loop.once(0.01)

    def in_loop(self, call: Callable[[], None]) -> None:
        self.loop.call_after(0, call)

    def count(self) -> None:
        self.closed += 1

    def refuse(self, request: Request) -> None:
        raise ControlError("not now: do that first")

    def bug(self, request: Request) -> None:
        raise ZeroDivisionError("oops")

    def subscribe(self, request: Request) -> dict[str, Any]:
        request.subscribe()
        return {}

    def pushy(self, request: Request) -> dict[str, Any]:
        request.channel.send({"push": "progress", "n": 1})
        return {"done": True}

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.server.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gadget" / "control"


@pytest.fixture
def served(path: Path) -> Iterator[Served]:
    made = Served(path, 200_000)
    yield made
    made.close()


def test_answers_in_words(served: Served, path: Path) -> None:
    with Client(path, 5) as client:
        assert client.request("ping") == {}
        assert client.request("echo", {"a": [1, "ö"]}) == {"a": [1, "ö"]}
        for do, words in [
            ("refuse", "not now: do that first"),
            ("bug", "internal error: ZeroDivisionError: oops"),
            ("big", "longer than"),
            ("nothing", "unknown request 'nothing'; known are"),
        ]:
            with pytest.raises(Refused, match=words):
                client.request(do)
        assert client.request("ping") == {}


def test_socket_is_for_root_only_from_the_start(served: Served, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["control"]


@pytest.mark.skipif(os.geteuid() != 0, reason="must be root to become somebody else")
def test_credentials_are_checked_beyond_the_mode(served: Served, path: Path) -> None:
    path.chmod(0o777)
    for folder in list(path.parents)[:4]:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(0o755)
    code = f"""
import os, socket
os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); s.settimeout(5)
try:
    s.sendall(b'{{"id": 1, "do": "ping"}}\\n')
    print(s.recv(100))
except (BrokenPipeError, ConnectionResetError):
    print(b"")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "b''\n"


def test_a_later_answer_and_several_requests_on_a_line(served: Served, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(os.fspath(path))
        raw.sendall(b'{"id": 1, "do": "later"}\n{"id": 2, "do": "echo", "x": 3}\n\n')
        stream = raw.makefile()
        assert json.loads(stream.readline()) == {"id": 2, "ok": True, "x": 3}
        request = served.later[0]
        served.in_loop(lambda: request.answer({"late": True}))
        assert json.loads(stream.readline()) == {"id": 1, "ok": True, "late": True}
        served.in_loop(lambda: request.refuse("a second answer is not sent"))
        raw.sendall(b'{"id": 3, "do": "ping"}\n')
        assert json.loads(stream.readline())["id"] == 3


@pytest.mark.parametrize("nonsense", [b"hello\n", b"[1]\n", b"\xff\xfe\n", b"[" * 60000 + b"\n", b"x" * (LINE_LIMIT + 10)])
def test_nonsense_is_answered_and_disconnected(served: Served, path: Path, nonsense: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(os.fspath(path))
        raw.sendall(nonsense)
        said = b""
        try:
            while data := raw.recv(65536):
                said += data
        except ConnectionResetError:
            pass  # closed while more was on its way
        assert not said or b'"ok":false' in said
    with Client(path, 5) as client:
        assert client.request("ping") == {}


def test_pushes_reach_subscribers_only(served: Served, path: Path) -> None:
    with Client(path, 5) as one, Client(path, 5) as other:
        one.request("subscribe")
        other.request("ping")
        served.in_loop(lambda: served.server.push("role", {"role": "active"}))
        assert next(one.pushes(5)) == {"push": "role", "role": "active"}
        assert list(other.pushes(0.05)) == []


def test_pushes_before_an_answer_are_kept_or_handed_over(served: Served, path: Path) -> None:
    with Client(path, 5) as client:
        assert client.request("pushy") == {"done": True}
        assert list(client.pushes(0.05)) == [{"push": "progress", "n": 1}]
        seen: list[dict[str, Any]] = []
        client.request("pushy", on_push=seen.append)
        assert seen == [{"push": "progress", "n": 1}]


def test_a_reader_that_does_not_read_is_disconnected_and_nobody_waits(served: Served, path: Path) -> None:
    with Client(path, 5) as slow, Client(path, 5) as other:
        slow.request("subscribe")
        done = threading.Event()

        def flood() -> None:
            for _ in range(200):
                served.server.push("noise", {"x": "y" * 10000})
            done.set()

        served.in_loop(flood)
        assert done.wait(5)
        assert other.request("ping") == {}
        deadline = time.monotonic() + 5
        while served.closed == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert served.closed == 1
        assert served.server.group("subscribe") == set()


def test_a_big_burst_arrives_whole_when_it_is_read(served: Served, path: Path) -> None:
    with Client(path, 5) as client:
        client.request("subscribe")
        served.in_loop(lambda: [served.server.push("noise", {"n": n, "x": "y" * 1000}) for n in range(150)] and None)
        got = [message["n"] for _, message in zip(range(150), client.pushes(5), strict=False)]
        assert got == list(range(150))


def test_a_client_says_what_is_wrong(path: Path, tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=r"^gadget is not running: there is no "):
        Client(path, 1)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    with pytest.raises(NotRunning, match=r"^gadget is not running: nobody answers on "):
        Client(path, 1)
    keeper = path.parent / "keeper"
    with pytest.raises(NotRunning, match=r"^keeper is not running"):
        Client(keeper, 1)


def test_a_hung_server_is_named(served: Served, path: Path) -> None:
    expected = pytest.raises(ControlError, match=r"gadget did not answer within 0.2 s: it hangs or is overloaded")
    with Client(path, 0.2) as client, expected:
        client.request("sleep")


def test_a_server_that_goes_away_is_named(path: Path) -> None:
    served = Served(path, 1000)
    client = Client(path, 5)
    client.request("ping")
    served.close()
    with pytest.raises(ControlError, match="gadget closed the connection"):
        client.request("ping")
    client.close()
    assert not path.exists()


def test_a_stale_socket_is_replaced_a_served_one_is_not(served: Served, path: Path) -> None:
    with pytest.raises(ControlError, match="served by another process already"):
        ControlServer(path, Loop().selector, {})
    stale = path.parent / "stale"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(stale))
    loop = Loop()
    fresh = ControlServer(stale, loop.selector, {})
    Client(stale, 1).close()
    # Somebody else's socket in the same place is not removed.
    stale.unlink()
    stale.touch()
    fresh.close()
    assert stale.exists()


def test_loop_client_asks_gets_pushes_and_is_told_of_the_end(path: Path) -> None:
    loop = Loop()
    answers: list[Any] = []
    ends: list[str] = []

    def subscribe(request: Request) -> dict[str, Any]:
        request.subscribe()
        return {"hello": 1}

    server = ControlServer(path, loop.selector, {"subscribe": subscribe})
    client = LoopClient(path, loop.selector, on_push=answers.append, on_close=ends.append)
    client.request("subscribe", then=answers.append)
    client.request("unheard")
    while not answers:
        loop.once(1)
    server.push("role", {"x": 1})
    while len(answers) < 2:
        loop.once(1)
    assert answers == [{"id": 1, "ok": True, "hello": 1}, {"push": "role", "x": 1}]
    server.close()
    while not ends:
        loop.once(1)
    assert ends == [""]
    assert client.closed
    client.request("ping")  # to nobody, without complaint
    with pytest.raises(NotRunning):
        LoopClient(path, loop.selector, on_push=answers.append, on_close=ends.append)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_lines_come_out_however_they_are_cut(size: int) -> None:
    stream = b'{"a":1}\n\n{"b":2}\nrest'
    lines = Lines()
    got = [line for at in range(0, len(stream), size) for line in lines.feed(stream[at : at + size])]
    assert got == [b'{"a":1}', b'{"b":2}']
    assert lines.feed(b"!\n") == [b"rest!"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_line_may_be_so_long_and_no_longer(at_once: bool) -> None:
    def fed(length: int) -> int:
        lines, line = Lines(), b"x" * length + b"\n"
        return sum(len(each) for part in ([line] if at_once else [line[:9], line[9:]]) for each in lines.feed(part))

    assert fed(LINE_LIMIT - 1) == LINE_LIMIT - 1
    with pytest.raises(ControlError):
        fed(LINE_LIMIT)


def test_loop_handles_what_arrived_before_it_judges_timers() -> None:
    loop = Loop()
    reader, writer = socket.socketpair()
    order: list[str] = []
    loop.selector.register(reader, 1, lambda _: (reader.recv(10), order.append("arrived")))
    loop.call_after(0, lambda: order.append("timer"))
    cancelled = loop.call_after(0, lambda: order.append("cancelled"))
    cancelled.cancel()
    writer.send(b"x")
    loop.once()
    assert order == ["arrived", "timer"]
    reader.close()
    writer.close()
