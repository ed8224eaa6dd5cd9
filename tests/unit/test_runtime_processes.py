"""commands and proctree, on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime import proctree
from runtime.commands import run
from runtime.errors import CommandFailed


def test_run_gives_output_status_and_time() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=5, check=False)
    assert (done.stdout, done.stderr, done.code) == ("out\n", "err\n", 3)
    assert 0 < done.seconds < 5


def test_run_feeds_and_drains_more_than_a_pipe_holds() -> None:
    text = "x" * 3_000_000
    assert run(["cat"], timeout=20, input=text).stdout == text
    assert run(["true"], timeout=5, input=text).code == 0


def test_run_raises_with_what_was_said() -> None:
    with pytest.raises(CommandFailed, match="exit status 4: no luck") as raised:
        run(["sh", "-c", "echo no luck >&2; exit 4"], timeout=5)
    assert raised.value.code == 4


@pytest.mark.parametrize(("argv", "because"), [(["/no/such/command"], "No such file"), (["/etc/passwd"], "Permission denied")])
def test_run_says_why_it_can_not_start(argv: list[str], because: str) -> None:
    with pytest.raises(CommandFailed, match=f"could not be started: {because}"):
        run(argv, timeout=5)


@pytest.mark.parametrize("command", ["sleep 60", "timeout 60 sleep 60"])
def test_out_of_time_kills_all_of_it(tmp_path: Path, command: str) -> None:
    script = f"{command} & echo $! > {tmp_path}/child; echo began >&2; wait"
    began = time.monotonic()
    with pytest.raises(CommandFailed, match=r"did not end within 0.3 s and was killed: began"):
        run(["sh", "-c", script], timeout=0.3)
    assert time.monotonic() - began < 3
    child = int((tmp_path / "child").read_text())
    while proctree.alive(child):
        assert time.monotonic() - began < 3


def test_a_daemon_left_behind_with_the_output_open_does_not_hold_us(tmp_path: Path) -> None:
    done = run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; echo ready"], timeout=10)
    child = int((tmp_path / "child").read_text())
    assert done.stdout == "ready\n"
    assert done.seconds < 5
    assert proctree.alive(child)
    os.kill(child, signal.SIGKILL)


def test_run_as_somebody_else_with_a_readable_locale(tmp_path: Path) -> None:
    done = run(["sh", "-c", "id -un; echo $HOME $LC_ALL $EXTRA"], timeout=5, user="daemon", env={"EXTRA": "more"})
    assert done.stdout.split() == ["daemon", "/usr/sbin", "C.UTF-8", "more"]
    with pytest.raises(CommandFailed, match="could not be started"):
        run(["true"], timeout=5, user="nobody-of-that-name")


def test_start_time_tells_processes_apart() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        start = proctree.start_time(child.pid)
        assert start is not None
        assert proctree.alive(child.pid, start)
        assert not proctree.alive(child.pid, start - 1)
        assert proctree.open_process(child.pid, start - 1) is None
        # the wrong start: whoever has this number now is not who was meant
        assert proctree.kill_tree(child.pid, start - 1) is True
        assert proctree.alive(child.pid)
        child.kill()
    assert proctree.start_time(child.pid) is None
    assert not proctree.alive(child.pid)


def test_names_with_parentheses_are_read(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 ("
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([str(odd), "60"]) as child:
        while proctree.processes and Path(f"/proc/{child.pid}/comm").read_text().strip() != odd.name:
            pass
        found = proctree.process(child.pid)
        assert found is not None and found.parent == os.getpid()
        child.kill()


def _spawn(code: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    return child, [int(word) for word in child.stdout.readline().split()]


def test_kill_tree_ends_all_generations_even_stopped_ones() -> None:
    code = """
import os, subprocess, signal, time
inner = "import subprocess,time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
import sys
p = subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE)
grandchild = int(p.stdout.readline())
os.kill(grandchild, signal.SIGSTOP)
print(p.pid, grandchild, flush=True)
time.sleep(60)
"""
    child, pids = _spawn(code)
    assert {p.pid for p in proctree.descendants(child.pid)} == set(pids)
    assert proctree.kill_tree(child.pid, proctree.start_time(child.pid))
    assert not any(proctree.alive(pid) for pid in [child.pid, *pids])
    child.communicate()


def test_kill_tree_is_not_outrun_by_a_process_that_forks_all_the_time() -> None:
    code = """
import os, time
print(os.getpid(), flush=True)
def breed(depth):
    while True:
        pid = os.fork()
        if pid == 0:
            time.sleep(0.01)
            if depth: breed(depth - 1)
            os._exit(0)
        time.sleep(0.005)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]: pass
        except ChildProcessError: pass
breed(1)
"""
    child, _ = _spawn(code)
    time.sleep(0.1)
    group = os.getpgid(child.pid)
    assert proctree.kill_tree(child.pid, proctree.start_time(child.pid))
    time.sleep(0.05)
    marker = b"def breed(depth)"
    left = [p.pid for p in proctree.processes() if p.group == group and marker in _command_line(p.pid) and p.state != "Z"]
    assert left == []
    child.communicate()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_kill_tree_spares_what_made_a_session_of_its_own() -> None:
    code = """
import subprocess, time
own = subprocess.Popen(["sleep", "60"], start_new_session=True)
same = subprocess.Popen(["sleep", "60"], process_group=0)
print(own.pid, same.pid, flush=True)
time.sleep(60)
"""
    child, (own, same) = _spawn(code)
    assert proctree.kill_tree(child.pid, None, spare=proctree.other_session(child.pid))
    assert proctree.alive(own)
    assert not proctree.alive(same)
    os.kill(own, signal.SIGKILL)
    child.communicate()
