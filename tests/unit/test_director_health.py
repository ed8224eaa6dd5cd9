"""Checks of ports: verdicts, and real sockets; swg-mon's words."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from director import swg_mon
from director.health import PortCheck, Verdict
from director.settings import Check, Config, Redirect, VirtualIp, Vrrp
from runtime.loop import Loop


@pytest.mark.parametrize(
    ("tries", "verdicts"),
    [
        ("+", "+"), ("-", "-"), ("+-+-+-", "++++++"), ("+--", "++-"), ("--+", "---"), ("-++", "--+"), ("+--++", "++--+"),
    ],
)  # fmt: skip
def test_rise_and_fall(tries: str, verdicts: str) -> None:
    verdict = Verdict(rise=2, fall=2)
    seen = ""
    for each in tries:
        before = verdict.well
        changed = verdict.note("" if each == "+" else "refused")
        assert changed == (verdict.well != before)
        seen += "+" if verdict.well else "-"
    assert seen == verdicts


@contextmanager
def answering(answer: Callable[[socket.socket], None] | None) -> Iterator[int]:
    """A port that accepts, and does that with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if answer is not None:
                        answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def config(*redirects: Redirect) -> Config:
    return Config(99, "127.0.0.1", Vrrp(), (VirtualIp("10.0.0.200", 24, "lo"),), redirects=redirects)


def problem(port: int, check: Check) -> str:
    (tried,) = swg_mon.tried(config(Redirect("http", (80,), port, check=check)))
    assert tried.verdict.well is not None
    return "" if tried.verdict.well else tried.verdict.why


def test_connect() -> None:
    with answering(None) as port:
        assert problem(port, Check()) == ""
    assert problem(free_port(), Check()) == "connection refused"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", ""),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "it answers 'HTTP/1.1 503 Busy'"),
        (b"SSH-2.0-x\r\n", "not an HTTP answer: 'SSH-2.0-x'"),
        (b"", "not an HTTP answer: ''"),
    ],
)
def test_http(answer: bytes, why: str) -> None:
    def reply(connection: socket.socket) -> None:
        assert connection.recv(1000).startswith(b"GET /health HTTP/1.0\r\n")
        connection.sendall(answer)

    with answering(reply) as port:
        assert problem(port, Check(kind="http", path="/health")) == why


def test_a_proxy_that_accepts_and_says_nothing_fails_in_time() -> None:
    hung = threading.Event()
    with answering(lambda connection: hung.wait(5) and None) as port:
        assert problem(port, Check(kind="http", timeout=0.05)) == "no answer within 0.05 s"
    hung.set()


def test_commands() -> None:
    assert problem(1, Check(kind="command", command="true")) == ""
    assert problem(1, Check(kind="command", command="sh -c 'echo no licence >&2; exit 3'")) == "exit status 3 no licence"
    assert "killed" in problem(1, Check(kind="command", command="sleep 5", timeout=0.05))
    assert "could not be started" in problem(1, Check(kind="command", command="/no/such"))


def test_it_is_tried_again_and_again_and_told_at_each_change() -> None:
    loop = Loop()
    told: list[bool | None] = []
    with answering(None) as port:
        redirect = Redirect("http", (80,), port, check=Check(interval=0.01, fall=2))
        check = PortCheck(loop, redirect, "127.0.0.1", lambda each: told.append(each.verdict.well))
        check.start()
        while not told:
            loop.once(1)
    while len(told) < 2:
        loop.once(1)
    check.close()
    assert told == [True, False]


def test_swg_mon_says_what_the_reference_shows() -> None:
    with answering(None) as port:
        dead = free_port()
        one = swg_mon.tried(config(Redirect("http", (9090,), port)))
        assert swg_mon.lines(one, verbose=False) == ["current state: ok", f"port {port} reachable"]
        two = swg_mon.tried(config(Redirect("http", (9090,), port), Redirect("ftp", (21,), dead)))
        assert swg_mon.lines(two, verbose=True) == [
            "current state: failure",
            f"port {port} reachable",
            f"port {dead} not reachable",
            f"http 9090 → {port}: connect ok",
            f"ftp 21 → {dead}: connection refused",
        ]
