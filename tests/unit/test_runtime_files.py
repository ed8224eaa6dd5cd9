"""errors, durable, pidfile, clock: what lies on the disk and what is said about it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime import clock, pidfile
from runtime.durable import read_bytes, read_json, remove_durably, write_durably, write_json
from runtime.errors import CommandFailed, ConfigError, in_words, without_secrets


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/etc/x"), "/etc/x: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("timed out"), "timed out"),
        (ConfigError("is wrong", file="/etc/x"), "/etc/x: is wrong"),
    ],
)
def test_what_the_system_refuses_is_told_in_words(error: Exception, text: str) -> None:
    assert in_words(error) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("is wrong"), "is wrong"),
        (ConfigError("is wrong", file="/etc/x"), "/etc/x: is wrong"),
        (ConfigError("is wrong", file=Path("/etc/x"), line=3), "/etc/x:3: is wrong"),
        (ConfigError("is wrong", file="/etc/x", line=3, remedy="mend it"), "/etc/x:3: is wrong (mend it)"),
        (CommandFailed(["a", "b c"], 3, "no\n"), "a 'b c' ended with exit status 3: no"),
        (CommandFailed(["a"], -9, ""), "a was killed by signal 9"),
        (CommandFailed(["a"], None, "x", because="did not end"), "a did not end: x"),
    ],
)
def test_errors_are_sentences(error: Exception, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    "said",
    [
        "host=a password=geheim user=b",
        "env PGPASSWORD=geheim psql",
        "host=a password='geheim x' user=b",
        "ALTER ROLE r PASSWORD 'geheim'",
        "could not connect to postgres://u:geheim@host/db",
        'secret: "geheim"',
    ],
)
def test_no_message_carries_a_secret(said: str) -> None:
    assert "geheim" not in without_secrets(said)
    assert "geheim" not in str(CommandFailed(["psql", said], 1, said))
    assert "***" in without_secrets(said)


def test_the_word_after_a_password_flag_is_a_secret() -> None:
    assert (
        str(CommandFailed(["tool", "--password", "geheim", "x"], 1, "")) == "tool --password '***' x ended with exit status 1"
    )


def test_secrets_leave_the_rest_alone() -> None:
    assert without_secrets("host=a password=x user=b") == "host=a password=*** user=b"
    assert without_secrets("FATAL: password authentication failed") == "FATAL: password authentication failed"


def test_clock_agrees_with_proc_uptime() -> None:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(clock.boottime() - uptime) < 0.5
    assert clock.stamp(0.25).endswith(":00.250")
    assert clock.stamp_of_boottime(clock.boottime())[:16] in (clock.stamp()[:16], clock.stamp(time.time() - 1)[:16])


def test_write_durably_sets_content_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        write_durably(path, "old", mode=0o644)
        write_durably(path, b"new", mode=0o640, owner=("nobody", None))
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.owner() == "nobody"
    assert os.listdir(tmp_path) == ["file"]


def test_write_durably_replaces_a_link_instead_of_following_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "file").symlink_to(victim)
    write_durably(tmp_path / "file", "mine")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "file").is_symlink()


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ConfigError, match="no such user"):
        write_durably(path, "new", owner=("nobody-of-that-name", None))
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_durably(tmp_path / "folder", "new")
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_write_that_finds_no_room_names_the_file(tmp_path: Path) -> None:
    """The system's call has only a descriptor, and says "No space left on device" of nothing in particular."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        with pytest.raises(OSError, match=f"{tmp_path}/file") as refused:
            write_durably(tmp_path / "file", "more than ten bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, f"{tmp_path}/file")
    assert os.listdir(tmp_path) == []


def test_json_comes_back_and_damage_has_a_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_json(path, default={}) == {}
    write_json(path, {"a": ["ö", 1]})
    assert read_json(path) == {"a": ["ö", 1]}
    path.write_text('{"a": 1,\n oops}')
    with pytest.raises(ConfigError, match=r"file:2: is not JSON"):
        read_json(path)
    assert remove_durably(path) is True
    assert remove_durably(path) is False


def test_read_bytes_refuses_links_devices_and_too_much(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        read_bytes(tmp_path / "link")
    assert read_bytes(tmp_path / "link", follow=True) == b"12345"
    with pytest.raises(ConfigError, match="not a regular file"):
        read_bytes(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="larger than 4"):
        read_bytes(tmp_path / "file", 4)


def test_a_pid_file_is_claimed_once_and_taken_over_from_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pid"
    hold = f"from runtime.pidfile import PidFile; PidFile.claim({str(path)!r}); print('held', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    child.stdout.readline()
    found = pidfile.find(path)
    assert found is not None and found.pid == child.pid
    with pytest.raises(pidfile.AlreadyRunning, match=f"pid {child.pid}"):
        pidfile.PidFile.claim(path)
    child.kill()
    child.communicate()
    assert pidfile.find(path) is None
    mine = pidfile.PidFile.claim(path)
    assert path.read_text() == f"{os.getpid()}\n"
    mine.release()
    assert not path.exists()


def test_a_child_that_inherited_the_lock_does_not_keep_its_dead_parents_place(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    script = f"""
import os, time
from runtime.pidfile import PidFile
PidFile.claim({str(path)!r})
if os.fork() == 0:
    time.sleep(30); os._exit(0)
print("forked", flush=True)
time.sleep(30)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
        child.wait()
        pidfile.PidFile.claim(path).release()
    finally:
        os.killpg(child.pid, 9)
        assert child.stdout is not None
        child.stdout.close()


def test_a_reused_number_is_not_the_writer(tmp_path: Path) -> None:
    """The process of that number started long after the file was written."""
    path = tmp_path / "pid"
    path.write_text(f"{os.getpid()}\n")
    os.utime(path, (1000, 1000))
    assert pidfile.find(path) is None
    os.utime(path)
    found = pidfile.find(path)
    assert found is not None and found.pid == os.getpid()


@pytest.mark.parametrize("content", ["", "x\n", "-1\n", "0\n", "4194304000\n"])
def test_nonsense_in_a_pid_file_is_nobody(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pid"
    path.write_text(content)
    assert pidfile.find(path) is None
    pidfile.PidFile.claim(path).release()
