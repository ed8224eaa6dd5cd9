"""Putting a cluster under HA and giving it back.

Promise: the administrator's files are read, never edited (but for Debian's start.conf, whose old content is kept and restored).
What we add is one settings file that includes the administrator's and comes after it, one hba and one ident file with our lines
before the administrator's; only a Postgres that the keeper starts uses them, so removing them restores what was there.
Source: design §4 rule 11 ("never started by anything else"), §6.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from ha_manager import administrator, cluster, postmaster, settings
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.rejoin import Control
from ha_manager.settings import Dynamic, Static
from runtime import commands, durable
from runtime.errors import ConfigError, ReplicationError

REPLICATION_ROLE = "ha_replication"
_MAP = "ha_manager"
_POLL = 0.02
_SYSTEMD = Path("/run/systemd/system")


def check(config: PostgresConfig) -> list[str]:
    """Warnings; raises ConfigError for what can't work."""
    admin, auto = administrator.verified(config), cluster.read_auto(config.data_dir)
    settings.refuse(admin, auto)
    if config.data_dir.is_mount():
        raise ConfigError(
            f"{config.data_dir} is a mount point, so a fresh copy can't be switched in",
            remedy="move the database into a folder below it, and point data_directory there",
        )
    # What write_files would refuse, before anything is changed.
    settings.decide(admin, None, config.slot_keep_mb, config.port)
    _check_certificate(config, settings.effective(admin, auto))
    for name, default in _ADMIN_FILES:
        _appended(_admin_file(config, admin, name, default), config.version)
    return settings.warnings(admin, auto)


_ADMIN_FILES = (("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf"))


def _check_certificate(config: PostgresConfig, counts: dict[str, settings.Setting]) -> None:
    """The login of the replication is bound to the certificate by its signature's hash (RFC 5929): one must be used there."""
    if not settings.is_on(counts, "ssl"):
        return
    file = _admin_file(config, counts, "ssl_cert_file", "server.crt")
    try:
        hashed = x509.load_pem_x509_certificate(file.read_bytes()).signature_hash_algorithm
    except OSError as wrong:
        what = f"ssl is on, and the certificate can't be read: {wrong.strerror}"
        raise ConfigError(what, file=file, remedy="correct ssl_cert_file, or set ssl to off") from wrong
    except (ValueError, UnsupportedAlgorithm):
        return  # Postgres is the judge of it
    if hashed is None:
        what = "this certificate's kind of signature (Ed25519) can't be used for the replication: SCRAM can't be bound to it"
        raise ConfigError(what, file=file, remedy="use one that is signed with RSA or ECDSA")


# --- our files ----------------------------------------------------------------------------------------------------------------


def write_files(config: PostgresConfig, control: Control | None, peers: tuple[str, ...]) -> bool:
    """Settings, hba and ident as they should be now; True if anything changed. A dynamic part that is there isn't touched."""
    paths = Paths(config.state_dir)
    make_folder(config)
    usable = administrator.read(config)
    admin = usable.found
    static = Static(
        admin_file=usable.file,
        dynamic_file=paths.dynamic,
        data_dir=config.data_dir,
        hba_file=paths.hba,
        ident_file=paths.ident,
        slot_keep_mb=config.slot_keep_mb,
        values=settings.decide(admin, control, config.slot_keep_mb, config.port, config.version),
    )
    tls = settings.is_on(settings.effective(admin, cluster.read_auto(config.data_dir)), "ssl")
    if not usable.wrong:
        _write(config, paths.kept, administrator.text(admin))
    changed = write_access(config, peers, tls)
    changed |= _write(config, paths.settings, static.text())
    if not paths.dynamic.exists():
        write_dynamic(config, Dynamic())
    return changed


def take_back_less(config: PostgresConfig, control: Callable[[], Control | None]) -> str:
    """Postgres stopped: ALTER SYSTEM's settings below what the active has go, as by ALTER SYSTEM RESET; with them it could
    neither follow nor be promoted. What was done in words, "" if nothing.
    """
    auto = cluster.read_auto(config.data_dir)
    needed = settings.floors_of(control()) if auto.keys() & settings.FLOORS.keys() else {}
    small = settings.less(auto, needed)
    if not small:
        return ""
    path = config.data_dir / "postgresql.auto.conf"
    about, lines = path.stat(), path.read_bytes().splitlines(keepends=True)
    kept = (line for line in lines if not any(re.match(rf"\s*{name}\b", line.decode(errors="replace"), re.I) for name in small))
    mode = stat.S_IMODE(about.st_mode)
    durable.write_durably(path, b"".join(kept), mode=mode, owner=(about.st_uid, about.st_gid))
    said = ", ".join(f"{name} = {one.value} (the active has {needed[name]})" for name, one in small.items())
    return f"ALTER SYSTEM had set {said} here, with which this database could neither follow nor take over: it was taken back"


def write_access(config: PostgresConfig, peers: tuple[str, ...], tls: bool, *, fsync: bool = True) -> bool:
    """hba and ident alone: our lines and the administrator's. True if they changed."""
    admin, paths = cluster.usable_settings(config), Paths(config.state_dir)
    hba, ident = (_admin_file(config, admin, name, default) for name, default in _ADMIN_FILES)
    changed = _write(config, paths.hba, hba_text(hba, peers, config.user, config.version, tls), fsync=fsync)
    return _write(config, paths.ident, ident_text(ident, config.user, config.version), fsync=fsync) or changed


def make_folder(config: PostgresConfig) -> None:
    """Where our own files are."""
    config.state_dir.mkdir(parents=True, exist_ok=True)
    os.chown(config.state_dir, 0, pwd.getpwnam(config.user).pw_gid)
    config.state_dir.chmod(0o750)
    parent = config.state_dir.parent
    if not parent.stat().st_mode & 0o001:
        # Postgres's user must be able to pass, not to look.
        parent.chmod(parent.stat().st_mode & 0o7777 | 0o011)


def _admin_file(config: PostgresConfig, admin: Mapping[str, settings.Setting], name: str, default: str) -> Path:
    written = admin[name].value if name in admin else default
    return config.data_dir / written


def _write(config: PostgresConfig, path: Path, text: str, *, fsync: bool = True) -> bool:
    content = text.encode(errors="surrogateescape")
    if durable.read_bytes(path) == content:
        return False
    durable.write_durably(path, content, mode=0o640, owner=(0, pwd.getpwnam(config.user).pw_gid), durable=fsync)
    return True


def read_dynamic(config: PostgresConfig) -> Dynamic:
    """The role's settings as they are in the file now."""
    path = Paths(config.state_dir).dynamic
    return Dynamic.parse(cluster.read_settings(path)) if path.exists() else Dynamic()


def write_dynamic(config: PostgresConfig, dynamic: Dynamic) -> None:
    """Not fsynced: after a power cut it is written anew before Postgres is started. A full disk keeps no active from going on
    alone, and no commit waiting for a standby that is gone.
    """
    path, owner = Paths(config.state_dir).dynamic, (0, pwd.getpwnam(config.user).pw_gid)
    try:
        durable.write_durably(path, dynamic.text(), mode=0o640, owner=owner, durable=False)
    except OSError as wrong:
        if wrong.errno not in (errno.ENOSPC, errno.EDQUOT) or not path.exists() or not durable.overwrite(path, dynamic.text()):
            raise


def write_passfile(config: PostgresConfig, password: str) -> None:
    """The replication password for libpq; an empty one shuts every new connection of a walreceiver out."""
    entry = pwd.getpwnam(config.user)
    line = f"*:*:*:{REPLICATION_ROLE}:{_escaped(password)}\n" if password else ""
    owner = (entry.pw_uid, entry.pw_gid)
    durable.write_durably(Paths(config.state_dir).passfile, line, mode=0o600, owner=owner, durable=False)


def _escaped(password: str) -> str:
    return password.replace("\\", "\\\\").replace(":", "\\:")


def hba_text(admin: Path, peers: tuple[str, ...], user: str, version: int, tls: bool) -> str:
    """Our lines, then the administrator's. The replication role is for the peer alone, over TLS where there is TLS."""
    lines = [
        "# Written by ha_manager; used while high availability is on. The administrator's lines follow.",
        f"local all {user} peer map={_MAP}",
        f"local replication {user} peer map={_MAP}",
    ]
    # pg_rewind reads files over a plain connection
    lines += [
        f"{'hostssl' if tls else 'host'} {database} {REPLICATION_ROLE} {_network(address)} scram-sha-256"
        for address in peers
        for database in ("replication", "postgres")
    ]
    lines += [f"host {database} {REPLICATION_ROLE} all reject" for database in ("replication", "all")]
    return "\n".join(lines) + "\n" + _appended(admin, version)


def ident_text(admin: Path, user: str, version: int) -> str:
    """Who may connect as the database's superuser over the Unix socket: root and the OS user of Postgres."""
    lines = ["# Written by ha_manager; used while high availability is on."]
    lines += [f"{_MAP} {name} {user}" for name in dict.fromkeys(("root", user))]
    return "\n".join(lines) + "\n" + _appended(admin, version)


def _appended(admin: Path, version: int) -> str:
    if not admin.exists():
        return ""
    if version >= 16:
        return f'include "{admin}"\n'
    try:
        text = admin.read_text(errors="surrogateescape")
    except OSError as wrong:
        raise ConfigError(f"can't be read: {wrong.strerror}", file=admin, remedy="correct it") from wrong
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r'(?:^|[\s,])"?@[^/\s]', line.split("#")[0]):
            raise ConfigError(
                "names a file relative to this one", file=admin, line=number, remedy="write its full path after @"
            )
    return text


def _network(address: str) -> str:
    if "/" in address:
        return address
    return f"{address}/{128 if ':' in address else 32}"


# --- who starts it ------------------------------------------------------------------------------------------------------------


_START_CONF = "# ha_manager starts this cluster (through its keeper); `ha stop` gives it back.\ndisabled\n"


def take_autostart(config: PostgresConfig) -> None:
    """Nothing but the keeper starts it from now on: Debian's start.conf says ``disabled``. What is written there by somebody
    else, before or while HA is on, is kept for ``give_autostart_back``.
    """
    if config.start_conf is None:
        return
    before = Paths(config.state_dir).autostart
    text = _start_conf(config)
    if text != _START_CONF:
        before.parent.mkdir(parents=True, exist_ok=True)
        durable.write_durably(before, text)
        _write_start_conf(config, _START_CONF)


def give_autostart_back(config: PostgresConfig) -> None:
    """As it was; what somebody else has written there meanwhile stays. May be called again after a crash at any line."""
    before = Paths(config.state_dir).autostart
    if config.start_conf is None:
        return
    if _start_conf(config) == _START_CONF:
        _write_start_conf(config, before.read_text() if before.exists() else "auto\n")
    durable.remove_durably(before)


def may_start(config: PostgresConfig) -> bool:
    """Debian refuses to start a cluster that is ``disabled``."""
    return config.start_conf is None or start_mode(_start_conf(config)) != "disabled"


def _start_conf(config: PostgresConfig) -> str:
    assert config.start_conf is not None
    return config.start_conf.read_text() if config.start_conf.exists() else "auto\n"


def remove_slots(config: PostgresConfig) -> None:
    """Postgres is stopped: a slot of ours that it still has would keep log until the disk is full."""
    for path in (config.data_dir / "pg_replslot").glob("ha_*"):
        shutil.rmtree(path, ignore_errors=True)


def _write_start_conf(config: PostgresConfig, text: str) -> None:
    assert config.start_conf is not None
    entry = pwd.getpwnam(config.user)
    durable.write_durably(config.start_conf, text, mode=0o644, owner=(entry.pw_uid, entry.pw_gid))
    if _SYSTEMD.is_dir():
        # Its generator makes a unit of each cluster that is ``auto``.
        commands.run(["systemctl", "daemon-reload"], timeout=30, check=False)


def start_mode(text: str) -> str:
    """auto | manual | disabled: the first word that is no comment."""
    words = [line.split("#")[0].strip() for line in text.splitlines()]
    return next((word for word in words if word), "auto")


def stop_foreign(config: PostgresConfig, keepers: int, limit: float) -> bool:
    """Stop a postmaster that isn't a child of the keeper (its pid; 0: none): fast, then immediately. True if there was one."""
    head = postmaster.postmaster_of(config.data_dir)
    if head is None or (keepers and head.parent == keepers):
        return False
    _stop_systemd_unit(config)
    end = time.monotonic() + limit
    postmaster.send(head.pid, signal.SIGINT)
    immediate = end - limit / 4
    while postmaster.processes_of(config.data_dir):
        if time.monotonic() > immediate:
            postmaster.send(head.pid, signal.SIGQUIT)
            immediate = end
        if time.monotonic() > end:
            raise ReplicationError(f"the Postgres that runs on {config.data_dir} (pid {head.pid}) can't be stopped")
        postmaster.wake_stopped(postmaster.processes_of(config.data_dir))
        time.sleep(_POLL)
    return True


def end_foreign(config: PostgresConfig, keepers: int, limit: float) -> bool:
    """While HA is on: kill a Postgres that isn't the keeper's. It is a standby of nobody (``startfence``), so nothing is lost
    by it; what one that was promoted by hand has acknowledged is in its log. True if there was one.
    """
    head = postmaster.postmaster_of(config.data_dir)
    if head is None or (keepers and head.parent == keepers):
        return False
    if not postmaster.kill_all(config.data_dir, limit):
        raise ReplicationError(f"the Postgres that somebody started on {config.data_dir} (pid {head.pid}) can't be ended")
    _stop_systemd_unit(config)
    return True


def _stop_systemd_unit(config: PostgresConfig) -> None:
    """systemd must not restart what we stop, nor think it failed."""
    if config.start_conf is not None and _SYSTEMD.is_dir():
        commands.run(["systemctl", "stop", f"postgresql@{config.version}-{config.name}"], timeout=30, check=False)


def start_plain(config: PostgresConfig, limit: float) -> None:
    """Start it as before HA: Debian's way, else pg_ctl."""
    if config.start_conf is not None:
        commands.run(["pg_ctlcluster", str(config.version), config.name, "start"], timeout=limit)
        return
    argv = [
        str(config.bin_dir / "pg_ctl"), "-D", str(config.data_dir), "-w", "-l", str(config.log_file),
        "-o", f"-c config_file={config.config_file}", "start",
    ]  # fmt: skip
    commands.run(argv, timeout=limit, user=config.user)


def remove_files(config: PostgresConfig) -> None:
    """Everything of ours but the lineage, which tells what this database has been through. The settings file goes last: as
    long as it is there, HA is not off yet (install.sh --uninstall).
    """
    paths = Paths(config.state_dir)
    for path in (paths.dynamic, paths.hba, paths.ident, paths.passfile, paths.kept, paths.settings):
        durable.remove_durably(path)
