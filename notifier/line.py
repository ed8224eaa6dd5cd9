"""One open session with one device: what is said on it, step by step.

Promise: every call ends within its time limit or with the session; errors are told in words, and as what the rules know
(``Outdated``). Only what the device lacks travels: a difference between manifests that both know, then contents by SHA-256 that
it asks for, many without waiting; large amounts by rsync. What is sent has the content that its name says, or is not sent.
Source: docs/protocols.md ("The session with a device"); design §7.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from manager import wire
from manager.holding import Outdated, Release, Version
from manager.manifest import Kind, Manifest, Unusable
from notifier.bulk import Bulk
from notifier.devices import Listed
from notifier.difference import difference
from notifier.store import Store, StoreError
from runtime import frames
from runtime.errors import HaError, PeerError
from runtime.keys import Keys, PublicKey
from runtime.session import Limits, PeerRefused, Remedies, connect

if TYPE_CHECKING:
    import paramiko

    from runtime.session_client import Session

log = logging.getLogger(__name__)

PORT = 4592
#: calmer than a pair's: hundreds of devices, and nobody's service depends on it
LIMITS = replace(Limits(), keepalive=10.0, silence=25.0)
LOGIN = 8.0
#: for one request, a little longer than the rules wait for a word (``release.LIMIT``), so that it is they who give up
ASK = 22.0
#: for a device to look through a large amount that was sent, as long as its session lives
LOOKING = 900.0
#: more bytes than this travel by rsync
LARGE = 16 * 1024 * 1024
#: to so many devices at the same time: enough for any network and disk; all at once would only make each of them look hung
AT_ONCE = max(6, 2 * (os.cpu_count() or 1))

REMEDIES = Remedies(
    changed="If it was given a new key on purpose: `notifier-ctl enroll --replace NAME`. If not, another has its address",
    unknown="`manager-ctl keys accept` there, with the line of `ha keys show` here",
)


@dataclass(frozen=True)
class Hello:
    """What a device says of itself first."""

    node: str
    package: str
    holds: Release | None = None
    staged: Release | None = None
    #: whose release counts there instead of ours; None: it listens to us
    obeys: Version | None = None


class Library:
    """What all lines read of the store, and what they need again and again: made once. Any thread."""

    _MOST = 64

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._parts: dict[tuple[str, str], tuple[dict[str, list[Any]], ...]] = {}
        self._modes: dict[str, dict[str, int]] = {}

    @contextlib.contextmanager
    def turn(self, told: Callable[[], None], alive: Callable[[], bool]) -> Iterator[None]:
        """One of the few that are sent much at the same time. Who waits for it says so: it does not hang."""
        while not self._turns.acquire(timeout=0.5):
            if not alive():
                raise PeerError("the session ended before it was its turn")
            told()
        try:
            yield
        finally:
            self._turns.release()

    def wanted(self, digest: str) -> Manifest:
        found = self.store.manifest(digest)
        if found is None:
            raise StoreError(f"the configuration {digest[:12]} is not kept here any more; commit again")
        return found

    def parts(self, before: str, after: str) -> tuple[dict[str, list[Any]], ...]:
        """``before``: a digest, "" for nothing."""
        with self._lock:
            found = self._parts.get((before, after))
            if found is None:
                found = difference(self.store.manifest(before) if before else None, self.wanted(after)).parts()
                if len(self._parts) >= self._MOST:
                    self._parts.clear()
                self._parts[before, after] = found
        return found

    def mode_of(self, digest: str, sha: str) -> int | None:
        """With which mode that content is kept; None if the release has no such content."""
        with self._lock:
            if digest not in self._modes:
                if len(self._modes) >= self._MOST:
                    self._modes.clear()
                entries = self.wanted(digest).entries.values()
                self._modes[digest] = {each.content: each.mode for each in entries if each.kind is Kind.FILE}
            return self._modes[digest].get(sha)


class Line:
    """``told`` (everywhere): called when something has been done."""

    def __init__(self, session: Session, hello: Hello, library: Library, bulk: Bulk) -> None:
        self.session, self.hello = session, hello
        self._library, self._bulk = library, bulk
        #: what was sent last did not turn out to be whole
        self._looked_wrong = False
        self._channel: paramiko.Channel | None = None
        self._reader = frames.Reader()

    def close(self) -> None:
        self._bulk.cancel()
        self.session.close()

    def when_ended(self, call: Callable[[str], None]) -> None:
        self.session.when_ended(call)

    def status(self, version: Version, is_passive: bool, timeout: float) -> dict[str, Any]:
        """Raises PeerError."""
        return self.session.request("status", timeout=timeout, isPassive=is_passive, version=wire.of_version(version))

    def introduce(self, key: PublicKey) -> None:
        """The other policy server's, whose notifier it shall obey after a failover. Raises PeerError."""
        self.session.request("introduce", timeout=ASK, line=key.line)

    # --- a release ----------------------------------------------------------------------------------------------------------

    def prepare(self, release: Release, holds: Release | None, staged: Release | None, told: Callable[[], None]) -> None:
        """Bring it into the staging area, whole. Raises Outdated, HaError, OSError."""
        try:
            answer = self._announce(release, holds, staged, told)
            lacks, size = answer.get("lacks"), int(answer.get("bytes", 0))
            if lacks is not None and size <= LARGE:
                self._send(release, self._lacking(release, lacks), told)
                self._until_done("prepared", release, told)
                return
            with self._library.turn(told, lambda: self.session.alive):
                empty = holds is None and staged is None and not self._looked_wrong
                if not self._copied(release, empty, told):
                    self._send(release, self._lacking(release, lacks), told)
                self._looked_wrong = True
                with self._patience(told):
                    self._until_done("prepared", release, told, LOOKING)
                self._looked_wrong = False
        except PeerRefused as no:
            raise _in_words(no) from no

    def switch(self, release: Release, told: Callable[[], None]) -> None:
        """Make it the device's conf_ready. Raises Outdated, HaError."""
        try:
            self._until_done("switch", release, told)
        except PeerRefused as no:
            raise _in_words(no) from no

    def _until_done(self, do: str, release: Release, told: Callable[[], None], limit: float = ASK) -> None:
        while self.session.request(do, timeout=limit, release=wire.of_release(release)).get("more"):
            told()

    @contextlib.contextmanager
    def _patience(self, told: Callable[[], None]) -> Iterator[None]:
        """A device that looks through gigabytes, and brings them to its disk, has nothing to say; its session still lives."""
        over = threading.Event()

        def wait() -> None:
            while not over.wait(1.0) and self.session.alive:
                told()

        threading.Thread(target=wait, name="patience", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _announce(
        self, release: Release, holds: Release | None, staged: Release | None, told: Callable[[], None]
    ) -> Mapping[str, Any]:
        """What it answers: what it lacks."""
        for each in (holds, staged):
            if each is None or self._library.store.manifest(each.digest) is None:
                continue
            try:
                return self._tell(release, each.digest, told)
            except PeerRefused as no:
                if no.code != "base":
                    raise
        return self._tell(release, "", told)

    def _tell(self, release: Release, before: str, told: Callable[[], None]) -> Mapping[str, Any]:
        parts = self._library.parts(before, release.digest)
        answer: Mapping[str, Any] = {}
        for number, part in enumerate(parts, 1):
            counted = {"part": number, "parts": len(parts), "from": before or None}
            answer = self.session.request("prepare", timeout=ASK, release=wire.of_release(release), **counted, **part)
            told()
        return answer

    def _copied(self, release: Release, empty: bool, told: Callable[[], None]) -> bool:
        """By rsync; ``empty``: nothing lies there that could look like what is to come. False if the device doesn't take it
        so: an older version, or it has no sshd."""
        try:
            port = int(self.session.request("bulk", timeout=ASK, release=wire.of_release(release))["port"])
        except PeerRefused as no:
            if no.code == "outdated":
                raise
            log.info("%s takes no rsync, so the contents go over its session: %s", self.hello.node, no)
            return False
        self._bulk.run(self._library.store.tree(release.digest), release, port, told, empty=empty)
        return True

    def _lacking(self, release: Release, lacks: Any) -> list[str]:
        """``None``: too many to be named; then all of them."""
        if lacks is None:
            return list(self._library.wanted(release.digest).contents)
        return [str(each) for each in lacks]

    # --- contents -----------------------------------------------------------------------------------------------------------

    def _send(self, release: Release, lacks: list[str], told: Callable[[], None]) -> None:
        import paramiko

        if not lacks:
            return
        try:
            channel = self._open()
            channel.sendall(frames.encode({"do": "begin", "release": wire.of_release(release)}))
            for sha in lacks:
                self._send_one(channel, release, sha)
                told()
            channel.sendall(frames.encode({"do": "end"}))
            self._ended(channel)
        except (paramiko.SSHException, OSError, EOFError) as gone:
            raise self._refusal() or PeerError(f"contents could not be sent: {gone or type(gone).__name__}") from gone

    def _open(self) -> paramiko.Channel:
        if self._channel is None or self._channel.closed:
            self._channel = self.session.subsystem("contents", ASK)
            self._reader = frames.Reader()
        return self._channel

    def _send_one(self, channel: paramiko.Channel, release: Release, sha: str) -> None:
        mode = self._library.mode_of(release.digest, sha)
        if mode is None:
            raise HaError(f"asks for a content that is not in release {release.version}: {sha[:12]}")
        try:
            with self._library.store.open_content(sha, mode) as file:
                made = pieces(file, sha)
        except Damaged:
            self._library.store.discard(sha, mode)
            raise
        for header, data in made:
            channel.sendall(frames.encode(header, data))

    def _ended(self, channel: paramiko.Channel) -> None:
        while data := channel.recv(65536):
            for answer, _ in self._reader.feed(data):
                if not answer.get("ok"):
                    self._channel = None
                    raise HaError(str(answer.get("error", "refused without a reason")))
                return
        raise EOFError("the device closed the channel")

    def _refusal(self) -> HaError | None:
        """What it may have said before it closed the channel."""
        channel, self._channel = self._channel, None
        if channel is None or not channel.recv_ready():
            return None
        try:
            self._ended(channel)
        except HaError as said:
            return said
        except (OSError, EOFError, ValueError):
            return None
        return None


class Damaged(StoreError):
    """A kept content is not what its name says."""


def pieces(file: BinaryIO, sha: str) -> list[tuple[dict[str, Any], bytes]]:
    """The frames of one content. Raises Damaged before the last of them exists: so it never counts at the device."""
    made: list[tuple[dict[str, Any], bytes]] = []
    found, offset = hashlib.sha256(), 0
    while (data := file.read(frames.CONTENT_LIMIT)) or not made:
        found.update(data)
        made.append(({"sha": sha, "offset": offset, "last": False}, data))
        offset += len(data)
        if not data:
            break
    made[-1][0]["last"] = True
    if found.hexdigest() != sha:
        raise Damaged(f"{file.name} was damaged, and is removed; commit again")
    return made


def open_line(
    listed: Listed, keys: Keys, pinned: PublicKey, version: Callable[[], Version], library: Library, bulk: Bulk
) -> Line:
    """Connect, and say hello. Raises HaError."""

    def epoch() -> tuple[int, str]:
        now = version()
        return (now.epoch, now.node)

    port = listed.port or PORT
    session = connect(listed.ip, keys, epoch, port=port, timeout=LOGIN, limits=LIMITS, other=pinned, remedies=REMEDIES)
    try:
        own = {"name": listed.device.name, "device": listed.id, "kind": listed.device.kind.value}
        answer = session.request("hello", timeout=LOGIN, version=wire.of_version(version()), **own)
        return Line(session, _hello(answer), library, bulk)
    except BaseException:
        session.close()
        raise


def _hello(answer: Mapping[str, Any]) -> Hello:
    try:
        return Hello(
            str(answer.get("node", "")),
            str(answer.get("package", "")),
            wire.release(answer["holds"]) if answer.get("holds") is not None else None,
            wire.release(answer["staged"]) if answer.get("staged") is not None else None,
            wire.version(answer["obeys"]) if answer.get("obeys") is not None else None,
        )
    except Unusable as wrong:
        raise PeerError(f"the device says hello in another way than ours; other versions? ({wrong})") from wrong


def _in_words(no: PeerRefused) -> Exception:
    """As the rules know it."""
    if no.code == "outdated":
        with contextlib.suppress(Unusable):
            return Outdated(wire.version(no.fields.get("highest")))
    return HaError(str(no))
