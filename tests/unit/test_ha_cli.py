"""/usr/bin/ha: what it prints, how it ends; the shell part through a real sh."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from ha_manager.cli import _amid_failover, _broken, _may_activate, _successor_gone, activated, main, not_active
from ha_manager.host import Host, Paths
from ha_manager.lanes import Cancelled, Lanes, Stop, Token, command
from ha_manager.orders import Epoch, Role
from ha_manager.plan import BECOMING_PASSIVE, Change, Ended, Run
from ha_manager.statusfile import Messages, StatusFile
from ha_manager.steps import committed_here, replace_tree, run_hooks, same_tree
from manager.holding import Holding, Release, Version
from manager.receiver.memory import Memory, Store
from runtime.control import ControlServer, Request
from runtime.errors import CommandFailed
from runtime.loop import Loop
from runtime.proctree import alive

HA = Path(__file__).parents[2] / "packaging/bin/ha"
SETUP = Path(__file__).parents[2] / "setup.cfg"


def ask(root: Path, word: str) -> tuple[str, int]:
    done = subprocess.run(["sh", str(HA), word], env={"HA_TEST_ROOT": str(root), "PATH": "/usr/bin:/bin"}, capture_output=True)
    assert done.stderr == b""
    return done.stdout.decode(), done.returncode


ROLE_FILES = [
    ("active 3 vs-166 1000.51 active 1 0", "1\n", 0),
    ("passive 3 vs-166 1000.51 passive 0 0", "0\n", 1),
    ("active 3 vs-166 1000.50 active 1 0", "0\n", 3),
    ("active 3 vs-166 999.99 active 1 0", "0\n", 3),
    ("passive 3 vs-166 999.99 passive 0 0", "0\n", 3),
    ("active 3 vs-166 9.99 active 1 0", "0\n", 3),
    ("active 3 vs-166 1000000 active 1 0", "0\n", 3),
    ("active 3 vs-166 2000.123 active 1 0", "0\n", 3),
    ("active 3 vs-166 1e9 active 1 0", "0\n", 3),
    ("active 3", "0\n", 3),
    ("", "0\n", 3),
    ("rubbish", "0\n", 3),
    (None, "0\n", 3),
]


@pytest.mark.parametrize(("line", "printed", "status"), ROLE_FILES, ids=[str(row[0]) for row in ROLE_FILES])
@pytest.mark.parametrize("word", ["amIactive", "AMIACTIVE"])
def test_am_i_active(tmp_path: Path, line: str | None, printed: str, status: int, word: str) -> None:
    (tmp_path / "run/heartbeat").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/uptime").write_text("1000.50 12.00\n")
    if line is not None:
        (tmp_path / "run/heartbeat/role").write_text(line + "\n")
    assert ask(tmp_path, word) == (printed, status)


def test_status_asks_whether_the_process_of_the_pid_file_is_heartbeat(tmp_path: Path) -> None:
    (tmp_path / "run/heartbeat").mkdir(parents=True)
    (tmp_path / "proc/12").mkdir(parents=True)
    assert ask(tmp_path, "status") == ("0\n", 3)
    (tmp_path / "run/heartbeat/heartbeat.pid").write_text("12\n")
    (tmp_path / "proc/12/cmdline").write_bytes(b"/bin/sleep\0100\0")
    assert ask(tmp_path, "Status") == ("0\n", 3)
    (tmp_path / "proc/12/cmdline").write_bytes(b"/opt/ha-manager/venv/bin/python\0-m\0heartbeat.daemon\0")
    assert ask(tmp_path, "status") == ("1\n", 0)


def test_names_in_any_case_and_an_example_in_each_help() -> None:
    runner = CliRunner()
    for name in main.commands:
        said = runner.invoke(main, [name.upper(), "--help"])
        assert said.exit_code == 0, said.output
        assert "Example: ha" in said.output or name == "keys"
    assert runner.invoke(main, ["Failower"]).exit_code == 2
    assert f"version = {runner.invoke(main, ['--version']).output.split()[-1]}\n" in SETUP.read_text()


ACTIVATIONS = [
    ("passive", "passive", True, True),
    ("passive", "active", False, True),
    ("passive", "active", True, False),
    ("passive", "promoting", True, False),
    ("active", "passive", True, False),
]


@pytest.mark.parametrize(("role", "peer", "contact", "asks"), ACTIVATIONS)
def test_activate_asks_only_where_heartbeat_would_do_it(role: str, peer: str, contact: bool, asks: bool) -> None:
    assert _may_activate({"role": role, "peer_state": {"phase": peer, "contact": contact}}) is asks


def test_an_active_that_is_told_to_go_on_alone_has_not_done_so_before_it_is_solo() -> None:
    assert not activated({"phase": "promoting", "solo": True}, was_active=False)
    assert activated({"phase": "active", "solo": True}, was_active=False)
    assert not activated({"phase": "active", "solo": False}, was_active=True), "it says still why it was active before"
    assert activated({"phase": "active", "solo": True}, was_active=True)


def test_a_failover_is_sent_on_only_to_an_active_that_is_heard() -> None:
    there = {"phase": "passive", "peer_state": {"phase": "active", "contact": True}}
    assert not_active(there, "vs-28") == "this server is passive, not active; run it on vs-28"
    for peer in ({"phase": "active", "contact": False}, {"phase": "passive", "contact": True}):
        said = not_active({"phase": "waiting", "peer_state": peer}, "vs-28")
        assert said == "this server is waiting, not active; `ha explain` says who is to be"


@pytest.mark.parametrize("command", sorted((HA.parent).iterdir()), ids=lambda path: path.name)
def test_a_command_runs_nothing_of_the_folder_it_is_called_in(command: Path, tmp_path: Path) -> None:
    for module in ("json", "click", "argparse", "runtime", "heartbeat"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('planted')")
    (tmp_path / "bin").mkdir()
    installed = command.read_text().replace("/opt/ha-manager/venv/bin/python", sys.executable)
    (tmp_path / "bin" / command.name).write_text(installed)
    done = subprocess.run(["sh", f"bin/{command.name}", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert "planted" not in done.stderr and done.returncode == 0, done.stderr


# --- what the plan's steps are made of ------------------------------------------------------------------------------------


def test_a_command_ends_at_its_limit_with_everything_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CommandFailed, match="time limit"):
        command(["/bin/sh", "-c", "sleep 60 & sleep 60"], Token(), limit=0.1, env={})
    assert time.monotonic() - began < 40
    with pytest.raises(CommandFailed, match="status 4: said so"):
        command(["/bin/sh", "-c", "echo said so >&2; exit 4"], Token(), limit=30, env={})
    with pytest.raises(CommandFailed, match="could not be started"):
        command(["/nonexistent"], Token(), limit=30, env={})
    command(["/bin/sh", "-c", 'test "$HA_ROLE" = active'], Token(), limit=30, env={"HA_ROLE": "active"})


def test_what_a_command_started_in_a_group_of_its_own_ends_with_it(tmp_path: Path) -> None:
    """timeout(1) makes one."""
    token, pid = Token(), tmp_path / "pid"

    def supersede() -> None:
        until(lambda: pid.exists() and pid.read_text().strip())
        token.cancel()

    threading.Thread(target=supersede, daemon=True).start()
    with pytest.raises(Cancelled):
        command(["/bin/sh", "-c", f"timeout 60 sh -c 'echo $$ >{pid}; sleep 60'; true"], token, limit=60, env={})
    until(lambda: not alive(int(pid.read_text())))


def test_a_superseded_command_is_ended_at_once() -> None:
    token = Token()
    token.cancel()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        command(["/bin/sleep", "60"], token, limit=60, env={})
    assert time.monotonic() - began < 40


def test_a_command_is_ended_when_its_plan_is_superseded_meanwhile() -> None:
    token = Token()
    threading.Timer(0.1, token.cancel).start()
    with pytest.raises(Cancelled):
        command(["/bin/sleep", "60"], token, limit=60, env={})


def test_a_command_of_the_host_has_no_part_in_our_protection_when_memory_runs_out(tmp_path: Path) -> None:
    """Positive scores stand for our negative one, which not everybody may give himself."""
    said = tmp_path / "score"
    program = f"""
from pathlib import Path
from ha_manager.lanes import Token, command
own = Path("/proc/self/oom_score_adj")
own.write_text("300")
command(["/bin/sh", "-c", "cat /proc/self/oom_score_adj >{said}"], Token(), limit=30, env={{}})
print(own.read_text())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (said.read_text().strip(), done.stdout.strip()) == ("0", "300")


def test_changes_of_role_leave_no_descriptor_open() -> None:
    ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    lanes = Lanes(lambda name: lambda run, token: command(["/bin/true"], token, limit=30, env={}), ended.put)
    change, before = Change(Role.PASSIVE, Epoch(1, "vs-28")), len(os.listdir("/proc/self/fd"))
    for plan in range(3):
        for step in BECOMING_PASSIVE:
            lanes.run(Run(plan, step, change))
        assert all(ended.get(timeout=30).ok for _ in BECOMING_PASSIVE)
        lanes.cancel(plan)
    assert len(os.listdir("/proc/self/fd")) == before
    lanes.end()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)


def test_hooks_run_in_name_order_and_may_stop_the_plan(tmp_path: Path) -> None:
    hooks, out = tmp_path / "hooks", tmp_path / "out"
    hooks.mkdir()
    script(hooks / "20-second", f"echo second >>{out}")
    script(hooks / "10-first", f'echo "$HA_ROLE" >>{out}')
    script(hooks / "30-not-executable", f"echo third >>{out}", 0o644)
    script(hooks / "40-backup.bak", f"echo fourth >>{out}")
    run_hooks(hooks, Token(), limit=30, env={"HA_ROLE": "active"})
    assert out.read_text() == "active\nsecond\n"
    script(hooks / "15-fails", "exit 1")
    with pytest.raises(CommandFailed):
        run_hooks(hooks, Token(), limit=30, env={})
    script(hooks / "15-fails", "echo not today; exit 100")
    with pytest.raises(Stop, match="not today"):
        run_hooks(hooks, Token(), limit=30, env={})
    assert out.read_text() == "active\nsecond\n\n\n", "what comes after a failed hook does not run"


def test_a_tree_is_replaced_whole_and_a_crash_between_the_renames_is_mended(tmp_path: Path) -> None:
    source, target = tmp_path / "conf_ready", tmp_path / "base"
    (source / "global").mkdir(parents=True)
    (source / "global/a").write_text("new")
    (source / "link").symlink_to("/etc/passwd")
    (target / "stale").mkdir(parents=True)
    replace_tree(source, target, Token())
    assert same_tree(source, target) and not (target / "stale").exists()
    inode = target.stat().st_ino
    replace_tree(source, target, Token())
    assert target.stat().st_ino == inode, "nothing to do is nothing done"
    target.rename(tmp_path / ".base.old")
    (source / "global/a").write_text("newer")
    replace_tree(source, target, Token())
    assert (target / "global/a").read_text() == "newer" and sorted(p.name for p in tmp_path.iterdir()) == ["base", "conf_ready"]
    (tmp_path / "elsewhere").mkdir()
    target.rename(tmp_path / "elsewhere/base")
    for content in ("one", "two"):  # an administrator's link in its place must not be in the way, now or the next time
        target.exists() or target.symlink_to(tmp_path / "elsewhere/base")
        (source / "global/a").write_text(content)
        replace_tree(source, target, Token())
        assert (target / "global/a").read_text() == content and not (tmp_path / ".base.old").is_symlink()
    assert (tmp_path / "elsewhere/base/global/a").read_text() == "newer"
    (source / "global/a").write_text("newer")
    replace_tree(source, target, Token())
    cancelled = Token()
    cancelled.cancel()
    (source / "global/a").write_text("newest")
    with pytest.raises(Cancelled):
        replace_tree(source, target, cancelled)
    assert (target / "global/a").read_text() == "newer"


def test_base_is_not_put_back_to_what_was_committed_from_it_here(tmp_path: Path) -> None:
    paths = Paths(manager_state=tmp_path)
    assert not committed_here(paths, "vs-166"), "nothing was ever received here"
    mine = Release(Version(1, "vs-166", 4), "0" * 64)
    Store(tmp_path).save(Memory(Holding(mine.version, mine)))
    assert committed_here(paths, "vs-166") and not committed_here(paths, "vs-28")
    (tmp_path / "holding.json").write_text("{")
    assert not committed_here(paths, "vs-166"), "as the reference does, where nobody knows"


def test_the_status_file_changes_only_when_something_does(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "etc/ha_manager_status")
    status.write({"role": "active", "peer_connected": True, "trouble": "two\nlines"})
    path = tmp_path / "etc/ha_manager_status"
    assert path.read_text() == "role=active\npeer_connected=1\ntrouble=two lines\n"
    inode = path.stat().st_ino
    status.write({"role": "active", "peer_connected": True, "trouble": "two\nlines"})
    assert path.stat().st_ino == inode
    status.write({"role": "passive", "peer_connected": True, "trouble": ""})
    assert path.read_text().startswith("role=passive\n")


def test_the_four_messages_are_said_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    messages = Messages()
    for _ in range(2):
        messages.role("active", "x")
        messages.replication_started("following vs-28")
        messages.replication_initialised("copied")
        messages.passive_unreachable("refused")
    messages.passive_unreachable("")
    messages.role("passive", "y")
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == "this device is now active: x"
    assert sum("failed to connect to ha_manager" in text for text in texts) == 1
    assert any("can be reached again" in text for text in texts) and texts[-1] == "this device is now passive: y"


def test_an_alarm_is_logged_when_it_is_raised_reworded_and_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    messages = Messages()
    for text in ("line 3 is wrong", "line 3 is wrong", "line 4 is wrong", "", ""):
        messages.alarm("configuration", text)
    messages.alarm("mended", "ALTER SYSTEM was taken back")
    assert [record.getMessage() for record in caplog.records] == [
        "alarm configuration: line 3 is wrong",
        "alarm configuration: line 4 is wrong",
        "alarm configuration is over: line 4 is wrong",
        "note: ALTER SYSTEM was taken back",
    ], "as heartbeat's and the Manager's"


def test_the_default_paths_are_the_protocols() -> None:
    paths = Host().paths
    assert paths == Paths() and str(paths.keys) == "/etc/ha_manager/keys" and str(paths.hooks) == "/etc/ha_manager/hooks.d"


def test_history_is_broken_to_a_terminals_width_and_whole_in_a_pipe() -> None:
    line = "2026-11-21 09:46:38.123  passive → active (epoch 2/vs-28): the active is silent on every link for 1022 ms, and more"
    assert _broken(line, 0, 25) == line
    first, second = _broken(line, 80, 25).splitlines()
    assert len(first) <= 80 and second.startswith(" " * 25) and f"{first} {second.strip()}" == line


@pytest.mark.parametrize(
    ("phase", "contact", "heard_ago", "returns", "gone"),
    [
        ("passive", True, 0.1, False, False),
        ("passive", False, 2.0, False, False),
        ("passive", False, 3.1, False, True),
        ("passive", False, 3.9, True, False),
        ("passive", False, 12.1, True, True),
        ("passive", False, None, False, False),
        ("standing-down", False, 3.9, False, False),
        ("active", False, 9.0, False, False),
    ],
)
def test_a_failover_ends_when_its_successor_has_died(
    phase: str, contact: bool, heard_ago: float | None, returns: bool, gone: bool
) -> None:
    role = "active" if phase == "active" else "passive"
    peer = {"contact": contact, "heard_ago": heard_ago}
    status = {"role": role, "phase": phase, "returns": returns, "peer_state": peer}
    assert _successor_gone(status) is gone


def test_a_heartbeat_that_dies_amid_a_failover_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder := tmp_path / "heartbeat").mkdir()
    host = SimpleNamespace(paths=SimpleNamespace(heartbeat_run=folder), linux_ha=SimpleNamespace(cl_status=()))
    config: Any = SimpleNamespace(host=host, peer="vs-28")
    with pytest.raises(SystemExit):
        _amid_failover(config, 0.0)
    said = capsys.readouterr().err
    assert "handing over had begun; now heartbeat is not running" in said and "`ha show` on vs-28" in said
    loop, asked = Loop(), list[dict[str, Any]]()
    asking = threading.Thread(target=lambda: asked.append(_amid_failover(config, 20.0)))
    asking.start()

    def status(request: Request) -> dict[str, Any]:
        loop.call_after(0.0, loop.stop)
        return {"phase": "passive"}

    server = ControlServer(folder / "control", loop.selector, {"status": status})
    loop.call_after(20.0, loop.stop)
    loop.run()
    asking.join(20.0)
    server.close()
    assert asked and asked[0]["phase"] == "passive"
