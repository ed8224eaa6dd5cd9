"""Starting a postmaster as a child that can't outlive its parent.

Promise: the child is the OS user of Postgres, in a session of its own, with default signals, its output in the log file, and
with PR_SET_PDEATHSIG=SIGKILL set after the change of user (which clears it) and checked against a parent that died in between.
Source: design §4 rule 5; prctl(2); facts/safety-model.md ("kills the child when the *thread* that started it ends").
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import pwd
import signal
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ha_manager import postmaster, startfence
from runtime.child import signal_at_parents_end
from runtime.errors import HaError
from runtime.proctree import process

log = logging.getLogger("keeper")

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Launch:
    """How this cluster's postmaster is started. ``folders`` are made before (name, mode): /run is empty after a boot."""

    postgres: Path
    data_dir: Path
    config_file: Path
    user: str
    log_file: Path
    environment: Mapping[str, str]
    folders: tuple[tuple[str, int], ...]
    #: lock files of its sockets
    locks: tuple[Path, ...] = ()
    #: tells one configuration from another
    digest: str = ""

    @classmethod
    def load(cls, path: Path) -> tuple[Launch, Path]:
        """The launch and the run directory in a JSON file; raises OSError, ValueError or KeyError."""
        text = path.read_bytes()
        value = json.loads(text)
        return cls.of(value, digest(text)), Path(value["run_dir"])

    @classmethod
    def of(cls, value: Mapping[str, Any], digest: str = "") -> Launch:
        """From ``cluster.launch_of``; raises ValueError or KeyError."""
        return cls(
            postgres=Path(value["postgres"]),
            data_dir=Path(value["data_dir"]),
            config_file=Path(value["config_file"]),
            user=str(value["user"]),
            log_file=Path(value["log_file"]),
            environment={str(k): str(v) for k, v in value.get("environment", {}).items()},
            folders=tuple((str(name), int(mode)) for name, mode in value.get("folders", [])),
            locks=tuple(Path(name) for name in value.get("locks", [])),
            digest=digest,
        )


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def prepare_launch(launch: Launch) -> None:
    """Everything that must be so before the fork, the start fence among it; raises HaError with the reason."""
    entry = _user(launch.user)
    if not (launch.data_dir / "PG_VERSION").is_file():
        raise HaError(f"{launch.data_dir} holds no database")
    if (launch.data_dir / "recovery.signal").exists():
        raise HaError(f"{launch.data_dir}/recovery.signal asks for a point-in-time recovery: finish it, or remove the file")
    for name, bits in launch.folders:
        _make_folder(Path(name), bits, entry)
    if not postmaster.processes_of(launch.data_dir):
        # Whatever it holds: a power cut may have emptied it, and after a boot another Postgres may have got its number.
        (launch.data_dir / "postmaster.pid").unlink(missing_ok=True)
        for lock in launch.locks:
            _clear_stale(lock)
    # Last: from here on whoever is quicker has the data.
    startfence.up(launch.data_dir, launch.user)


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError as unknown:
        raise HaError(f"there is no user {name!r} to run Postgres as") from unknown


def _make_folder(path: Path, bits: int, entry: pwd.struct_passwd) -> None:
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, entry.pw_uid, entry.pw_gid)
        path.chmod(bits)


def _clear_stale(lock: Path) -> None:
    """A zombie, or another program that got the number in a lock file later, would make Postgres refuse to start."""
    try:
        pid = abs(int(lock.read_text().split("\n")[0]))
        if process(pid) is not None and not postmaster.is_postgres(pid):
            lock.unlink()
    except (OSError, ValueError, IndexError):
        return


def adopt_orphans() -> None:
    """Backends whose postmaster died become children of this process, which thereby learns of their end."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(launch: Launch) -> int:
    """Fork and exec; returns the pid. What the child can't do it writes to its log, and exits with status 127."""
    entry = _user(launch.user)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    log_fd = _open_log(launch.log_file, entry)
    argv = [str(launch.postgres), "-D", str(launch.data_dir), "-c", f"config_file={launch.config_file}"]
    environment = _environment(launch, entry)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(log_fd)
        return pid
    try:
        _become(entry, groups, log_fd, parent)
        os.execve(argv[0], argv, environment)
    except BaseException as wrong:
        with contextlib.suppress(OSError):
            os.write(2, f"ha_manager: can't start {argv[0]}: {wrong}\n".encode())
    os._exit(127)


def _become(entry: pwd.struct_passwd, groups: list[int], log_fd: int, parent: int) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    # Ignored signals stay ignored across exec; Postgres expects the defaults.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.setgroups(groups)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.umask(0o077)
    os.chdir("/")
    signal_at_parents_end(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(126)


def _open_log(path: Path, entry: pwd.struct_passwd) -> int:
    """Where that can't be (a full disk, a read-only one), messages are lost, and service goes on."""
    try:
        return _make_log(path, entry)
    except OSError as wrong:
        log.warning("what Postgres says is lost: %s can't be written: %s", path, wrong)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _make_log(path: Path, entry: pwd.struct_passwd) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    if new:
        # As pg_ctlcluster does: readable by the group that owns /var/log/postgresql's files (adm).
        group = path.parent.stat().st_gid
        os.fchown(fd, entry.pw_uid, group if stat.S_ISDIR(path.parent.stat().st_mode) and group else entry.pw_gid)
    return fd


def _environment(launch: Launch, entry: pwd.struct_passwd) -> dict[str, str]:
    base = {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name,
        "LANG": "C.UTF-8", "PG_OOM_ADJUST_FILE": "/proc/self/oom_score_adj", "PG_OOM_ADJUST_VALUE": "0",
    }  # fmt: skip
    return base | dict(launch.environment)
