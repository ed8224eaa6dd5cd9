"""service and syslog: real daemons, started as their users start them; a real datagram socket as /dev/log."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import pidfile, proctree
from runtime.loop import Loop
from runtime.syslog import SyslogHandler
from runtime.worker import Worker

_DAEMON = """
import os, selectors, signal, sys
from runtime import service
from runtime.errors import ConfigError
folder, how = sys.argv[1], sys.argv[2]
def body(me):
    if how == "misconfigured":
        raise ConfigError("is wrong", file="/etc/x", line=3, remedy="mend it")
    if how == "bug":
        raise ZeroDivisionError("oops")
    if how == "dies":
        os._exit(9)
    if how == "quits":
        return 0
    got = []
    selector = selectors.DefaultSelector()
    me.register(selector, got.append)
    me.ready()
    while signal.SIGTERM not in got:
        for key, mask in selector.select():
            key.data(mask)
        open(f"{folder}/signals", "a").write("".join(f"{n.name}\\n" for n in got if n != signal.SIGTERM))
        got[:] = [n for n in got if n == signal.SIGTERM]
        if os.path.exists(f"{folder}/crash"):
            raise ZeroDivisionError("later")
    return 0
service.run("gadget", f"{folder}/pid", body, foreground="--foreground" in sys.argv)
"""


class Gadget:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-c", _DAEMON, str(self.folder), *words]

    def start(self, how: str = "well", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(how), capture_output=True, text=True, timeout=20, check=False, env=os.environ | (env or {})
        )

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        pid = self.pid
        os.kill(pid, number)
        self.until_gone(pid)

    def until_gone(self, pid: int) -> None:
        deadline = time.monotonic() + 10
        while proctree.alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def gadget(tmp_path: Path) -> Iterator[Gadget]:
    made = Gadget(tmp_path)
    yield made
    if (found := pidfile.find(tmp_path / "pid")) is not None:
        proctree.kill_tree(found.pid, found.start)


def test_detaches_when_it_is_ready_and_removes_its_pid_file_on_a_clean_stop(gadget: Gadget) -> None:
    started = gadget.start()
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    found = proctree.process(gadget.pid)
    assert found is not None
    assert found.session not in (os.getsid(0), found.pid)  # a session of its own, and not its leader
    assert os.readlink(f"/proc/{gadget.pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{gadget.pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    gadget.end()
    assert not (gadget.folder / "pid").exists()


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("misconfigured", 6, "gadget: /etc/x:3: is wrong (mend it)"),
        ("bug", 1, "gadget: internal error: ZeroDivisionError: oops"),
        ("dies", 1, "gadget: ended before it was ready"),
        ("quits", 1, "gadget: ended before it was ready"),
    ],
)
def test_whoever_starts_it_learns_why_it_did_not_start(gadget: Gadget, how: str, code: int, words: str) -> None:
    started = gadget.start(how)
    assert started.returncode == code
    assert words in started.stderr
    if how == "dies":
        gadget.until_gone(gadget.pid)  # it closes its report a moment before it is gone
    assert pidfile.find(gadget.folder / "pid") is None


def test_a_second_one_is_refused_with_the_pid(gadget: Gadget) -> None:
    gadget.start()
    again = gadget.start()
    assert again.returncode == 1
    assert f"gadget: is running already (pid {gadget.pid}, {gadget.folder}/pid)" in again.stderr
    gadget.end()


@pytest.mark.parametrize("way", ["killed", "crashed"])
def test_a_crash_leaves_the_pid_file_and_the_next_start_takes_it_over(gadget: Gadget, way: str) -> None:
    gadget.start()
    first = gadget.pid
    if way == "killed":
        gadget.end(signal.SIGKILL)
    else:
        (gadget.folder / "crash").touch()
        gadget.end(signal.SIGHUP)
        (gadget.folder / "crash").unlink()
    assert gadget.pid == first
    assert gadget.start().returncode == 0
    assert gadget.pid != first
    gadget.end()


def test_signals_arrive_as_events(gadget: Gadget) -> None:
    gadget.start()
    seen = gadget.folder / "signals"
    sent: list[str] = []
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP):
        os.kill(gadget.pid, number)
        sent.append(number.name)
        deadline = time.monotonic() + 10
        while not seen.exists() or seen.read_text().split() != sent:
            assert time.monotonic() < deadline
    gadget.end()


def test_foreground_tells_systemd_and_logs_to_stderr(gadget: Gadget) -> None:
    where = gadget.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(os.fspath(where))
        systemd.settimeout(10)
        env = os.environ | {"NOTIFY_SOCKET": str(where)}
        child = subprocess.Popen(gadget.argv("well", "--foreground"), stderr=subprocess.PIPE, env=env)
        assert systemd.recv(100) == b"READY=1"
        assert gadget.pid == child.pid
        child.send_signal(signal.SIGINT)  # arrives, but is not what this daemon ends with
        child.send_signal(signal.SIGTERM)
        assert systemd.recv(100) == b"STOPPING=1"
        child.communicate(timeout=10)
        assert child.returncode == 0


def test_foreground_says_what_is_wrong(gadget: Gadget) -> None:
    argv = gadget.argv("misconfigured", "--foreground")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 6
    assert "is wrong (mend it)" in done.stderr


class DevLog:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(os.fspath(path))
        self.socket.settimeout(2)

    def lines(self, count: int) -> list[str]:
        return [self.socket.recv(65536).decode() for _ in range(count)]

    def stop(self) -> None:
        self.socket.close()
        self.path.unlink()


def logger_to(path: Path, facility: str = "daemon") -> logging.Logger:
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(SyslogHandler("gadget", facility, os.fspath(path)))
    return logger


def test_syslog_lines_have_the_form_of_rfc_3164(tmp_path: Path) -> None:
    log = DevLog(tmp_path / "log")
    logger = logger_to(log.path, "local3")
    logger.error("bad: %s", "thing")
    logger.info("two\nlines")
    logger.debug("%d", "not a number")
    first, second, third, odd = log.lines(4)
    assert re.fullmatch(rf"<155>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d gadget\[{os.getpid()}\]: bad: thing", first)
    assert (second[:5], third[-5:]) == ("<158>", "lines")
    assert odd.startswith("<159>") and "can't be formatted" in odd
    log.stop()


def test_syslog_survives_a_restart_and_tells_what_it_missed(tmp_path: Path) -> None:
    log = DevLog(tmp_path / "log")
    logger = logger_to(log.path)
    logger.info("one")
    assert log.lines(1)[0].endswith("one")
    log.stop()
    logger.info("two")
    log = DevLog(tmp_path / "log")
    logger.info("three")
    assert [line.rpartition(" ")[2] for line in log.lines(2)] == ["two", "three"]
    log.stop()
    for number in range(510):
        logger.info("n%d", number)
    log = DevLog(tmp_path / "log")
    log.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    logger.info("last")
    assert "11 messages could not be written" in log.lines(1)[0]
    assert log.lines(1)[0].endswith("n11")
    log.stop()


def test_syslog_never_waits_for_a_log_that_does_not_read(tmp_path: Path) -> None:
    log = DevLog(tmp_path / "log")
    logger = logger_to(log.path)
    began = time.monotonic()
    for number in range(2000):
        logger.info("n%d", number)
    assert time.monotonic() - began < 2
    log.stop()


def test_worker_hands_back_in_the_loop_and_in_order() -> None:
    loop = Loop()
    worker = Worker(loop.selector)
    outcomes: list[str] = []
    worker.do(lambda: time.sleep(0.02), lambda wrong: outcomes.append(f"slow {wrong}"))
    worker.do(lambda: 1 / 0, lambda wrong: outcomes.append(f"bug {wrong}"))
    assert outcomes == []
    while len(outcomes) < 2:
        loop.once(1)
    assert outcomes == ["slow None", "bug division by zero"]
    worker.close()
