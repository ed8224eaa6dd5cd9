"""Process 1 of a machine: its root, its boot services, its system log, its clean shutdown.

    init.py --channel FD SPEC        (SPEC: JSON, see ``Spec``; started by ``lab.spawn``)

Promise: the machine's root is an overlay whose upper folder is its disk and is all that survives; /dev, /proc, /sys, /run and
/tmp are new at every boot. Says ``root`` on the channel, waits there for ``network`` (its cables are plugged in from outside),
says ``booted`` when the boot services have been started. Orphans are reaped; nothing is respawned. SIGTERM is the power
button: the stop scripts run, then every process ends, then the disk is synced. Standard library only; one process, no threads.
Source: design §2; LSB init scripts; rsyslog's file format; RFC 3164 for what arrives on /dev/log.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import json
import os
import pwd
import re
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # started as a file, with -I -S
from lab import syscalls as sc

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_START = 'for script in /etc/rc2.d/S*; do [ ! -x "$script" ] || "$script" start; done'
_STOP = 'for script in /etc/rc0.d/K*; do [ ! -x "$script" ] || "$script" stop; done'
#: Stop scripts get so long, and what is left after SIGTERM so long (seconds)
_STOP_LIMIT, _TERM_LIMIT = 60.0, 3.0
_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_RFC3164 = re.compile(rb"^(?:<(\d+)>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?")


def enter_root(spec: dict[str, str]) -> None:
    root = spec["root"]
    sc.mount("none", "/", None, sc.MS_REC | sc.MS_PRIVATE)
    layers = f"lowerdir={spec['lower']},upperdir={spec['upper']},workdir={spec['work']},redirect_dir=on"
    sc.mount("overlay", root, "overlay", 0, layers)
    quiet = sc.MS_NOSUID | sc.MS_NODEV
    sc.mount("proc", f"{root}/proc", "proc", quiet | sc.MS_NOEXEC)
    sc.mount("sysfs", f"{root}/sys", "sysfs", quiet | sc.MS_NOEXEC)
    sc.mount("tmpfs", f"{root}/run", "tmpfs", quiet, "mode=0755")
    sc.mount("tmpfs", f"{root}/tmp", "tmpfs", quiet, "mode=1777")
    sc.mount("tmpfs", f"{root}/dev", "tmpfs", sc.MS_NOSUID, "mode=0755")
    make_devices(Path(root, "dev"))
    os.chdir(root)
    sc.pivot_root(".", ".")  # the old root now lies over the new one, and goes
    sc.unmount(".", sc.MNT_DETACH)
    os.chdir("/")


def make_devices(dev: Path) -> None:
    for name, (major, minor) in _NODES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        os.chmod(dev / name, 0o666)
    for folder, mode in (("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)):
        (dev / folder).mkdir()
        (dev / folder).chmod(mode)
    sc.mount("devpts", str(dev / "pts"), "devpts", sc.MS_NOSUID | sc.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    sc.mount("tmpfs", str(dev / "shm"), "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=1777")
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ):
        (dev / name).symlink_to(target)


def give_identity(spec: dict[str, str]) -> None:
    name = spec["name"]
    socket.sethostname(name)
    Path("/etc/hostname").write_text(f"{name}\n")
    Path("/etc/hosts").write_text(spec["hosts"])
    machine_id = Path("/etc/machine-id")
    if machine_id.exists():
        machine_id.write_text(spec["machine_id"] + "\n")
    os.makedirs("/run/lock", exist_ok=True)
    make_runtime_folders()


def make_runtime_folders() -> None:
    """The folders in /run that Debian's packages count on, /run/postgresql say (tmpfiles.d(5); only lines of type d)."""
    for rules in sorted(Path("/usr/lib/tmpfiles.d").glob("*.conf")):
        for line in rules.read_text(errors="replace").splitlines():
            words = [*line.split(), "-", "-", "-"]
            if words[0] != "d" or not words[1].startswith("/run/") or words[1].startswith("/run/systemd"):
                continue
            with contextlib.suppress(OSError, KeyError, ValueError):
                os.makedirs(words[1], exist_ok=True)
                owner = pwd.getpwnam(words[3]).pw_uid if words[3] != "-" else -1
                group = grp.getgrnam(words[4]).gr_gid if words[4] != "-" else -1
                os.chown(words[1], owner, group)
                os.chmod(words[1], int(words[2], 8))


class SystemLog:
    """/dev/log → /var/log/syslog, one line a message, stamped to the millisecond when it arrives."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind("/dev/log")
        os.chmod("/dev/log", 0o666)
        self._file = os.open("/var/log/syslog", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                text = _RFC3164.sub(b"", self.socket.recv(65536).rstrip(b"\0\n"), count=1)
                self._write(text.decode(errors="backslashreplace"))

    def say(self, text: str) -> None:
        self._write(f"init[1]: {text}")

    def _write(self, text: str) -> None:
        stamp = datetime.now().astimezone().isoformat(timespec="milliseconds")
        escaped = text.replace("\n", "#012")  # as rsyslog writes a line feed within a message
        with contextlib.suppress(OSError):  # a full disk must not end process 1
            os.write(self._file, f"{stamp} {self._host} {escaped}\n".encode())


class Machine:
    """The loop: log, children, signals."""

    def __init__(self, spec: dict[str, str], channel: socket.socket) -> None:
        self._channel = channel
        self._log = SystemLog(spec["name"])
        self._began = time.monotonic()
        self._boot: int | None = None
        self._asked_to_stop = False
        self._wake, waker = socket.socketpair(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        signal.set_wakeup_fd(waker.detach(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(self._log.socket, selectors.EVENT_READ)

    def run(self, boot: bool) -> None:
        self._log.say("power on")
        if boot:
            self._boot = script(_START)
        else:
            self._booted()
        while not self._asked_to_stop:
            self._step(None)
        self._shut_down()

    def _booted(self) -> None:
        self._log.say(f"booted in {time.monotonic() - self._began:.2f} s")
        with contextlib.suppress(OSError):
            self._channel.send(b"booted")
        self._channel.close()

    def _step(self, limit: float | None) -> None:
        for key, _ in self._selector.select(limit):
            if key.fileobj is self._wake:
                numbers = self._wake.recv(512)
                self._asked_to_stop |= signal.SIGTERM in numbers or signal.SIGINT in numbers
            else:
                self._log.take()
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                if pid == self._boot:
                    self._boot = None
                    self._booted()

    def _shut_down(self) -> None:
        self._log.say("shutting down")
        stopping = script(_STOP)
        self._until(lambda: not os.path.exists(f"/proc/{stopping}"), _STOP_LIMIT)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, number)
            if self._until(nobody_left, _TERM_LIMIT):
                break
        self._log.say("power off")
        os.sync()

    def _until(self, condition: object, limit: float) -> bool:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if callable(condition) and condition():
                return True
            self._step(0.02)
        return False


def nobody_left() -> bool:
    return not any(name.isdigit() and name != "1" for name in os.listdir("/proc"))


def script(text: str) -> int:
    environment = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "PREVLEVEL": "N", "RUNLEVEL": "2"}
    child = subprocess.Popen(["/bin/sh", "-c", text], env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    child.returncode = 0  # reaped by the loop
    return child.pid


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--channel", type=int, required=True)
    options.add_argument("--lab", required=True)
    options.add_argument("spec")
    given = options.parse_args()
    spec = json.loads(given.spec)
    channel = socket.socket(fileno=given.channel)
    try:
        enter_root(spec)
        give_identity(spec)
        machine = Machine(spec, channel)
    except OSError as wrong:
        channel.send(f"failed: {wrong}".encode())
        raise SystemExit(1) from wrong
    channel.send(b"root")
    if channel.recv(64) != b"network":
        raise SystemExit("the lab gave up before this machine had a network")
    machine.run(boot=spec["kind"] == "server")


if __name__ == "__main__":
    main()
