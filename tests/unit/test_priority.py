"""Real-time priority: given to a thread, not to what it starts; refused, it is a note in the log and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from ha_manager.punctual import Punctual
from runtime.clock import boottime
from runtime.priority import DIRECTOR, HEARTBEAT, LATE_REPORTER, REPORTER, hurry, relax


def _allowed() -> bool:
    def ask() -> None:
        answer.append(hurry(REPORTER, inherited=False))

    answer: list[str] = []
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answer == [""]


allowed = pytest.mark.skipif(not _allowed(), reason="the system gives no real-time priority")
#: RESET_ON_FORK is told beside the policy
RESET = os.SCHED_RESET_ON_FORK
_TELL = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, os.nice(0))"


def in_a_thread(body: Callable[[], None]) -> None:
    """This thread, pytest's, stays an ordinary one."""
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            body()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    if wrong:
        raise wrong[0]


def own() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


@allowed
def test_whoever_reports_and_a_director_come_after_heartbeat() -> None:
    def body() -> None:
        assert hurry(inherited=False) == "" and own() == (os.SCHED_FIFO | RESET, HEARTBEAT)
        for below in (REPORTER, DIRECTOR):  # a director that shares out clients computes for seconds
            assert hurry(below, inherited=False) == "" and own() == (os.SCHED_RR | RESET, below) and below < HEARTBEAT
        relax()
        assert own() == (os.SCHED_OTHER, 0)

    in_a_thread(body)


@allowed
def test_neither_a_forked_child_nor_a_program_nor_a_thread_inherits_it() -> None:
    def body() -> None:
        assert hurry(REPORTER, inherited=False) == ""
        child = os.fork()
        if child == 0:
            os._exit(0 if own() == (os.SCHED_OTHER, 0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        said = subprocess.run([sys.executable, "-c", _TELL], capture_output=True, text=True, check=True).stdout
        assert said.split() == [str(os.SCHED_OTHER), "0", "0"]
        in_a_thread(lambda: found.append(own()))

    found: list[tuple[int, int]] = []
    in_a_thread(body)
    assert found == [(os.SCHED_OTHER, 0)]


@allowed
def test_a_daemon_that_detaches_keeps_it() -> None:
    def body() -> None:
        assert hurry(REPORTER) == ""
        child = os.fork()
        if child == 0:
            os._exit(0 if own() == (os.SCHED_RR, REPORTER) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    in_a_thread(body)


_REFUSED = """
import resource, os, logging
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
from runtime import memory
from runtime.clock import boottime
from ha_manager.punctual import Punctual
punctual = Punctual(boottime)
punctual.join("main")
punctual.look()
print(os.sched_getscheduler(0), punctual.refused, "|", memory.lock("ha_manager", touched=True))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="setpriv needs root")
def test_a_refusal_is_told_in_words_and_nothing_else() -> None:
    argv = ["setpriv", "--bounding-set", "-sys_nice,-ipc_lock", sys.executable, "-c", _REFUSED]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    assert said == (
        f"{int(os.SCHED_OTHER)} no real-time priority (Operation not permitted): {LATE_REPORTER} | memory can't be locked"
        " (Cannot allocate memory): short of memory, ha_manager may be late"
    )


@allowed
def test_a_thread_that_computes_is_an_ordinary_one_until_it_has_calmed_down(caplog: pytest.LogCaptureFixture) -> None:
    one = Punctual(boottime, period=0.2)
    busy, over, ready = threading.Event(), threading.Event(), threading.Event()
    busy.set()

    def body() -> None:
        one.join("that computes")
        ready.set()
        while busy.is_set():
            pass
        over.wait(20)

    def becomes(policy: int) -> None:
        end = boottime() + 20
        while os.sched_getscheduler(thread.native_id or 0) != policy:
            assert boottime() < end
            time.sleep(0.05)
            one.look()

    thread = threading.Thread(target=body)
    thread.start()
    ready.wait(20)
    one.look()
    assert os.sched_getscheduler(thread.native_id or 0) == os.SCHED_RR | RESET, "it is too early to judge"
    becomes(os.SCHED_OTHER)
    assert [record.message.startswith("the thread that computes needs") for record in caplog.records] == [True]
    busy.clear()
    becomes(os.SCHED_RR | RESET)
    over.set()
    thread.join(20)


@allowed
def test_a_thread_that_has_ended_is_not_looked_at() -> None:
    one = Punctual(boottime, period=0.0)
    in_a_thread(lambda: one.join("that ends"))
    one.look()
    one.look()
