"""A diverged database made to follow again page by page: those that differ from the active's are fetched, in place.

Promise: marked, barred and completed as a rewind is (``rewinding``): until it is whole nobody starts it, and a fresh copy
replaces one that was interrupted. Nothing is believed of what is here, neither its log nor its page headers: a page stays only
if its SHA-256 (16 bytes of it) is that of the active's page, read between the begin and the end of a backup there. So the
result is what pg_basebackup would have brought, whatever state this was in: a crash needs no recovery first. No further
channel, key or program, as for ``differences``.

Both servers read all of their database, and only what differs travels and is written: sooner done than a copy, and sooner than
pg_rewind (all pages named in the log since the checkpoint before the fork, a few at a time) unless little was written to a
large database. Digests of the pages here are made in a thread of their own, from the beginning, while the active makes its
checkpoint. Source: manual, 26.3.3 (low-level backup); docs/lab.md for what takes how long.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

from ha_manager import differences, fetching, rewinding, space, tablespaces, transfer
from ha_manager.cluster import Paths, PostgresConfig
from ha_manager.differences import CONTROL, EMPTY, SLOT, Remote
from ha_manager.fetching import ANSWER, READ, Fetching, array
from ha_manager.observation import COPIES, Identity, Progress, Upstream, slot_name
from ha_manager.replication import Clock, upstream_conninfo
from ha_manager.sql import Session, unlimited
from ha_manager.transfer import OnProgress
from runtime.clock import boottime
from runtime.errors import ReplicationError

#: read and compared at one blow
_SPAN = 4 << 20
#: files up to this size are compared as a whole, many in one question
_SMALL = 256 << 10
_TOGETHER = 500
#: digests that the thread may be ahead (spans: 128 GB)
_AHEAD = 1 << 15
#: digest of a file that is not there
_GONE = bytes(32)

_WHOLE = """
SELECT string_agg(coalesce(sha256(pg_read_binary_file(p, 0, $2::bigint, true)), decode(repeat('00', 32), 'hex')), ''::bytea
  ORDER BY n) FROM unnest($1::text[]) WITH ORDINALITY AS files (p, n)
"""
_SPACES = "SELECT oid::text FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'"


def compare(config: PostgresConfig, node: str, upstream: Upstream, active: Identity, progress: OnProgress, limit: float) -> str:
    """Postgres stopped, its log kept. Returns what took how long, in words. Raises NotYet (nothing was begun), Cancelled;
    ReplicationError where only a copy helps.
    """
    clock, times = Clock(limit), rewinding.Times()
    info = upstream_conninfo(upstream, f"{COPIES}{node}", Paths(config.state_dir).passfile) + unlimited(config.version)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(contextlib.closing(Here(config.data_dir)))
        try:
            session = stack.enter_context(contextlib.closing(Session(f"{info} dbname=postgres", min(5.0, clock.left))))
        except ReplicationError as wrong:
            raise rewinding.NotYet(f"the active can't be compared with now: {wrong}") from wrong
        waiting = Progress(0, 0, 0.0, doing="waiting for the active's checkpoint")
        began = differences.start(session, config.version, clock, lambda: progress(waiting))
        differences.require_log(session, slot_name(node), began, clock)
        found = differences.listed(session, clock)
        _require_places(config, session)
        times.end("the active's checkpoint")
        space.check_for(config.data_dir, active.wal, "what differs")
        transfer.end_leftovers(config.data_dir)
        rewinding.begin(config)
        comparison = Comparison(config, session, here, progress, clock)
        comparison.all(found, lambda: differences.require_log(session, slot_name(node), began, clock))
        text = differences.stop(session, config.version, clock)
    differences.write_label(config, config.data_dir, text)
    rewinding.restore_own_files(config)
    times.end(f"comparing {comparison.total >> 20} MiB and fetching {comparison.fetched >> 20} of them")
    transfer.sync([config.data_dir, *tablespaces.outside(config.data_dir)], progress, clock.need("writing to the disk"))
    rewinding.complete(config)
    times.end("writing to the disk")
    return str(times)


def _require_places(config: PostgresConfig, session: Session) -> None:
    """Raises ReplicationError unless both have the same tablespaces: only a copy makes folders for them."""
    there = {row[0] for row in session.rows(_SPACES, ANSWER)}
    folder = config.data_dir / "pg_tblspc"
    if there != {path.name for path in folder.iterdir() if path.is_symlink()}:
        raise ReplicationError("the tablespaces of the two servers differ")


class Here:
    """The pages of this server's stopped database, and their digests."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.sizes = dict(_files(data_dir))
        self._large = sorted(path for path, size in self.sizes.items() if size > _SMALL and path != CONTROL)
        self._made: queue.Queue[tuple[str, int, bytes]] = queue.Queue(_AHEAD)
        self._ended = threading.Event()
        self._buffer = memoryview(bytearray(_SPAN))
        self._thread = threading.Thread(target=self._run, name="digests", daemon=True)
        self._thread.start()
        self._next: tuple[str, int, bytes] | None = None

    def close(self) -> None:
        self._ended.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._made.get_nowait()
        self._thread.join()

    def digests(self, path: str, offset: int) -> bytes:
        """Of the pages of one span; to be asked for in the order of paths and offsets. b"": there are none."""
        while True:
            if self._next is None:
                self._next = self._made.get()
            if self._next[:2] > (path, offset):
                return b""
            found, self._next = self._next, None
            if found[:2] == (path, offset):
                return found[2]

    def whole(self, path: str) -> bytes:
        """The digest of a small file."""
        try:
            return hashlib.sha256((self.data_dir / path).read_bytes()).digest()
        except OSError:
            return b""

    def _run(self) -> None:
        for path in self._large:
            try:
                self._file(path)
            except OSError:
                continue  # what can't be read here is fetched
            if self._ended.is_set():
                return
        self._put(("\U0010ffff", 0, b""))

    def _file(self, path: str) -> None:
        descriptor = os.open(self.data_dir / path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset in range(0, self.sizes[path], _SPAN):
                data = self._buffer[: os.preadv(descriptor, [self._buffer], offset)]
                if not self._put((path, offset, fetching.digests(data))):
                    return
        finally:
            os.close(descriptor)

    def _put(self, made: tuple[str, int, bytes]) -> bool:
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._made.put(made, timeout=0.2)
                return True
        return False


def _files(data_dir: Path) -> Iterator[tuple[str, int]]:
    """Every file of the database with its size, tablespaces included; not the log."""
    for folder, folders, names in os.walk(data_dir, followlinks=True):
        place = os.path.relpath(folder, data_dir)
        if place == ".":
            folders[:] = [name for name in folders if name != "pg_wal"]
        prefix = "" if place == "." else f"{place}/"
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if tablespaces.is_part(f"{prefix}{name}"):
                    yield f"{prefix}{name}", os.stat(f"{folder}/{name}").st_size


class Comparison(Fetching):
    """One under way, in place."""

    def __init__(self, config: PostgresConfig, session: Session, here: Here, progress: OnProgress, clock: Clock) -> None:
        super().__init__(config, session, config.data_dir, progress, clock)
        self._here = here

    def all(self, found: Sequence[Remote], held: differences.Held) -> None:
        """``held`` raises where the active no longer keeps the log from the beginning on."""
        self.total = sum(each.size for each in found if not each.folder)
        self._own_all()
        self._remove_others({each.path for each in found})
        for each in found:
            if each.folder and not (self._place / each.path).is_dir():
                (self._place / each.path).mkdir(mode=0o700)
                self._own(each.path)
        files = [each for each in found if not each.folder and each.path != CONTROL]
        self._small([each for each in files if each.size <= _SMALL])
        asked = -inf
        for each in sorted((each for each in files if each.size > _SMALL), key=lambda each: each.path):
            if boottime() - asked >= SLOT:
                asked = boottime()
                held()
            self._large(each)
        self._whole(CONTROL)  # as it says what the rest is, it comes last
        held()

    def _own_all(self) -> None:
        """Whom a copy would belong to. Postgres doesn't start on a folder that somebody has given away."""
        self._grant(self._config.data_dir, 0o700)
        for folder, folders, names in os.walk(self._config.data_dir, followlinks=True):
            place = os.path.relpath(folder, self._config.data_dir)
            for name in folders + names:
                if place == "." or tablespaces.is_part(f"{place}/{name}"):
                    self._grant(Path(folder, name), 0o700 if name in folders else 0o600)

    def _grant(self, path: Path, least: int) -> None:
        try:
            seen = path.stat()
        except FileNotFoundError:
            return  # a link that leads nowhere
        if (seen.st_uid, seen.st_gid) != (self._owner["user"], self._owner["group"]):
            os.chown(path, self._owner["user"], self._owner["group"])
        if seen.st_mode & least != least:
            path.chmod(stat.S_IMODE(seen.st_mode) | least)

    # --- what the active has not --------------------------------------------------------------------------------------------

    def _remove_others(self, wanted: set[str]) -> None:
        """What of the database here the active hasn't, and what a copy leaves out. The log was kept before."""
        data = self._config.data_dir
        for path in self._here.sizes:
            if path not in wanted and path != "standby.signal":
                (data / path).unlink(missing_ok=True)
        log = data / "pg_wal"
        for each in list(log.iterdir()):
            if not each.is_dir():
                each.unlink()
        for name in EMPTY & set(os.listdir(data)):
            for each in list((data / name).iterdir()):
                if each.is_dir() and name != "pg_wal":
                    shutil.rmtree(each)
        shutil.rmtree(log / "archive_status", ignore_errors=True)
        (log / "archive_status").mkdir(mode=0o700)
        self._own("pg_wal/archive_status")
        self._remove_folders(wanted)

    def _remove_folders(self, wanted: set[str]) -> None:
        """Of databases that the active hasn't."""
        data = self._config.data_dir
        for top in ("base", "pg_tblspc"):
            for folder, folders, _ in os.walk(data / top, topdown=False, followlinks=True):
                for name in folders:
                    path = f"{os.path.relpath(folder, data)}/{name}"
                    if path not in wanted and tablespaces.is_part(path) and not os.path.islink(data / path):
                        shutil.rmtree(data / path)

    # --- small files --------------------------------------------------------------------------------------------------------

    def _small(self, files: Sequence[Remote]) -> None:
        for begin in range(0, len(files), _TOGETHER):
            some = files[begin : begin + _TOGETHER]
            told = self._session.binary(_WHOLE, self._answer(), [array([each.path for each in some]), str(_SMALL)]) or b""
            for number, each in enumerate(some):
                digest = told[number * 32 : number * 32 + 32]
                if digest == _GONE:
                    self._gone(each.path)
                elif digest != self._here.whole(each.path):
                    self._whole(each.path)
            self._advance(sum(each.size for each in some))

    def _whole(self, path: str) -> None:
        data = self._session.binary(READ, self._answer(), [path, "0", str(2 * _SMALL)])
        if data is None:
            self._gone(path)
            return
        with self._opened(path, os.O_TRUNC) as descriptor:
            os.pwrite(descriptor, data, 0)
        self.fetched += len(data)

    def _gone(self, path: str) -> None:
        """Removed there meanwhile: the log says so once more. Of a relation an empty file stays, as where one is cut."""
        if differences.is_relation(path):
            with self._opened(path, os.O_TRUNC):
                return
        (self._place / path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int = 0) -> Iterator[int]:
        descriptor = os.open(self._place / path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
        try:
            os.fchown(descriptor, self._owner["user"], self._owner["group"])
            yield descriptor
        finally:
            os.close(descriptor)

    # --- large ones ---------------------------------------------------------------------------------------------------------

    def _large(self, remote: Remote) -> None:
        """As long as it was when it was listed, or shorter: what it has grown by since is in the log."""
        end = 0
        with self._opened(remote.path) as descriptor:
            for offset in range(0, remote.size, _SPAN):
                length = min(_SPAN, remote.size - offset)
                there = self._digests(remote.path, offset, length)
                if not there:
                    break
                here = self._here.digests(remote.path, offset)
                end = self._differing(remote.path, offset, length, there, here, descriptor)
                self._advance(length)
            os.ftruncate(descriptor, end)
        if not end:
            self._gone(remote.path)
