"""jobs and hang: the Manager's non-blocking tools, against real scripts and real sockets."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from manager.hang import HangWatch
from manager.jobs import Job, Outcome
from runtime import proctree
from runtime.control import ControlServer, Request
from runtime.loop import Loop


class Script:
    """Runs a shell script as a Job and waits for its outcome in the loop."""

    def __init__(self, text: str, limit: float = 5.0) -> None:
        self.loop = Loop()
        self.outcomes: list[Outcome] = []
        self.began = time.monotonic()
        Job(self.loop, ["/bin/sh", "-c", text], limit=limit, done=self.outcomes.append, env={"STOP_KIND": "off"})
        assert self.outcomes == []
        while not self.outcomes:
            self.loop.once(1)
        self.outcome = self.outcomes[0]
        self.seconds = time.monotonic() - self.began


def test_a_job_that_ends_well_says_nothing() -> None:
    assert Script("true").outcome == Outcome(False, None)


def test_a_job_that_fails_is_quoted_in_one_line() -> None:
    outcome = Script("echo one; echo two >&2; exit 5").outcome
    assert str(outcome.problem).endswith("ended with exit status 5: one | two")


def test_a_job_has_an_environment_of_its_own() -> None:
    os.environ["FOREIGN"] = "x"
    problem = str(Script("echo $MANAGED-$STOP_KIND-$FOREIGN-$LC_ALL; exit 1").outcome.problem)
    assert problem.endswith(": 1-off--C.UTF-8")


def test_a_command_that_is_not_there() -> None:
    loop = Loop()
    outcomes: list[Outcome] = []
    Job(loop, ["/no/such/script"], limit=1, done=outcomes.append)
    assert outcomes == []
    loop.once(1)
    assert "could not be started: No such file" in str(outcomes[0].problem)


def test_out_of_time_kills_all_of_it(tmp_path: Path) -> None:
    script = Script(f"echo waiting; timeout 60 sleep 60 & echo $! > {tmp_path}/child; wait", limit=0.2)
    assert script.outcome.timed_out
    assert "did not end within 0.2 s and was killed: waiting" in str(script.outcome.problem)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 60
    while proctree.alive(child):
        assert time.monotonic() < deadline


def test_a_daemon_left_behind_neither_holds_the_job_nor_dies_of_its_output(tmp_path: Path) -> None:
    """It holds the script's output open and goes on writing: no SIGPIPE, no memory filled."""
    daemon = f"(while :; do echo noise; echo x >> {tmp_path}/lives; sleep 0.01; done) & echo $! > {tmp_path}/child"
    script = Script(daemon)
    assert script.outcome.problem is None
    child = int((tmp_path / "child").read_text())
    before = _size(tmp_path / "lives")
    deadline = time.monotonic() + 60
    while _size(tmp_path / "lives") < before + 10:
        assert time.monotonic() < deadline
    assert os.stat(f"/proc/{child}/fd/1").st_size < 1000
    proctree.kill_tree(child, None)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Watch:
    def __init__(self, path: Path, limit: float) -> None:
        self.loop = Loop()
        self.path = path
        self.said: list[str] = []
        self.limit = limit
        self.watch: HangWatch | None = None

    def begin(self) -> None:
        self.watch = HangWatch(self.loop, os.fspath(self.path), self.limit, self.said.append)

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.said:
            self.loop.once(left)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "gadget" / "control", 0.16)


def test_who_answers_does_not_hang(watch: Watch) -> None:
    ControlServer(watch.path, watch.loop.selector, {})
    watch.begin()
    watch.run(0.6)
    assert watch.said == []


def test_who_is_silent_hangs_after_its_limit(watch: Watch) -> None:
    asked: list[Request] = []
    ControlServer(watch.path, watch.loop.selector, {"ping": asked.append})
    watch.begin()
    began = time.monotonic()
    watch.run(10)
    assert time.monotonic() - began > 0.14
    assert watch.said == [f"hangs: no answer on {watch.path} for 0.16 s"]
    assert len(asked) == 1


def test_a_pause_of_the_manager_itself_is_one_tick(watch: Watch) -> None:
    asked: list[Request] = []
    ControlServer(watch.path, watch.loop.selector, {"ping": asked.append})
    watch.begin()
    while not asked:
        watch.loop.once(1)
    time.sleep(0.5)  # the pause: longer than the limit
    watch.loop.once(0)
    assert watch.said == []
    asked[0].answer()
    watch.run(0.1)
    assert watch.said == []


def test_a_socket_that_is_gone_gets_three_times_as_long(watch: Watch) -> None:
    watch.begin()
    began = time.monotonic()
    watch.run(10)
    assert time.monotonic() - began > 0.4
    assert "can't be reached for 0.48 s: gadget is not running" in watch.said[0]


def test_a_socket_that_comes_late_is_found(watch: Watch) -> None:
    watch.begin()
    watch.run(0.2)
    server = ControlServer(watch.path, watch.loop.selector, {})
    watch.run(0.5)
    server.close()
    watch.run(0.1)
    assert watch.said == []
    assert watch.watch is not None
    watch.watch.close()
    watch.run(0.6)
    assert watch.said == []


def test_a_full_backlog_is_not_waited_for(watch: Watch) -> None:
    """A stopped process whose queue of connections is full."""
    watch.path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(os.fspath(watch.path))
        busy.listen(0)
        fillers = []
        for _ in range(3):
            filler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            fillers.append(filler)
            try:
                filler.connect(os.fspath(watch.path))
            except BlockingIOError:
                break
        watch.begin()
        watch.run(10)
        assert "does not take connections" in watch.said[0]
        for filler in fillers:
            filler.close()


def test_signals_of_the_session_do_not_reach_a_job(tmp_path: Path) -> None:
    """Ctrl-C on a Manager in the foreground must not interrupt a stop under way."""
    script = Script(f"ps -o sid= -p $$ > {tmp_path}/sid")
    assert script.outcome.problem is None
    assert int((tmp_path / "sid").read_text()) != os.getsid(0)
