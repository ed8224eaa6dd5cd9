"""What notifiers may ask of a device, and how it is done: the requests of the session.

Promise: nothing is answered before it is on the disk; a release is said to be prepared only after the whole staging tree was
looked at, and in force only after the rename. Who is not listened to changes nothing. A full disk, a damaged content or a name
that leads astray is refused in words, and what was in force stays. Source: docs/protocols.md ("The session with a device").
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from manager import obeying, wire
from manager.holding import Holding, Outdated, Release, Step, Unprepared, Version
from manager.manifest import Manifest, Unusable, patched
from manager.receiver.memory import Memory, Store
from manager.receiver.trees import Incoming, Trees, Wrong
from runtime import sizes
from runtime.errors import HaError
from runtime.session import Caller, Handler, Refusal
from runtime.version import package

log = logging.getLogger(__name__)

#: of one difference, 512 KiB each
MOST_PARTS = 128
#: so many contents are named that are lacking; more, and everything is to be sent
MOST_NAMED = 8192
#: bytes that stay free on the disk of the configuration
SPARE = 8 << 20
#: above the number of every release
_LAST = 1 << 62


class Home(Protocol):
    """The device around the receiver."""

    node: str

    def active_in(self) -> int | None:
        """The epoch in which heartbeat says that this server is active now; None: it is not, or there is no heartbeat."""

    def state(self) -> Mapping[str, Any]:
        """For ``status``: mode, alarms, replication, kind."""

    def policy_server(self) -> bool: ...

    def room(self, wanted: Manifest, device: str) -> int:
        """Bytes on the disk of conf_ready that it takes at most to put ``wanted`` in place."""

    def present(self) -> frozenset[str]:
        """Nodes whose notifiers have a session with this device."""

    def adopted(self, by: str) -> None:
        """This server is the passive of ``by`` from now on. Raises HaError."""

    def introduce(self, by: str, line: str) -> None:
        """Pin the key of the other policy server. Raises Refusal."""

    def switched(self) -> None:
        """Something new is in force; returns at once."""


@dataclass
class _Announced:
    """A difference that comes in parts."""

    release: Release
    base: str | None
    parts: int
    gone: list[Any] = field(default_factory=list)
    changed: list[Any] = field(default_factory=list)
    next: int = 1


@dataclass(frozen=True)
class Preparation:
    release: Release
    wanted: Manifest
    #: SHA-256 → bytes
    lacking: Mapping[str, int]


class Transfers(Protocol):
    """rsync's way into the staging tree."""

    def start(self, release: Release) -> int:
        """Open it for that release; the port. Raises HaError, OSError."""

    def finish(self) -> None:
        """Nobody writes there any more."""


class Receiver:
    def __init__(self, trees: Trees, store: Store, home: Home, transfers: Transfers | None = None) -> None:
        self._trees, self._store, self._home, self._transfers = trees, store, home, transfers
        #: somebody else has written into the staging tree, or may
        self._open = False
        self._lock = threading.RLock()
        self._announced: dict[str, _Announced] = {}
        self.preparation: Preparation | None = None
        self.memory = Memory(Holding())
        #: digests of what lies in conf_ready and in the staging tree
        self._bases: dict[str, Manifest] = {}

    def begin(self) -> None:
        """Find out what is in force, and what was under way when this process ended last. Raises HaError, OSError."""
        with self._lock:
            self._trees.begin()
            self.memory = self._store.load()
            held = replace(self.memory.holding)
            found, beside = self._digests()
            if held.staged is not None and held.staged.digest == found:
                held.switched(held.staged)  # it ended between the rename and its note
            if held.holds is not None and held.holds.digest != found:
                log.warning("what lies in %s is not release %s any more", self._trees.front, held.holds.version)
                held.holds = None
            if held.staged is not None and held.staged.digest != beside:
                held.staged = None
            self._remember(replace(self.memory, holding=held))

    def handlers(self) -> dict[str, Handler]:
        asked = {
            "hello": self._hello,
            "status": self._status,
            "introduce": self._introduce,
            "prepare": self._prepare,
            "bulk": self._bulk,
            "prepared": self._prepared,
            "switch": self._switch,
        }
        return {name: _told(handler) for name, handler in asked.items()}

    # --- who is listened to -------------------------------------------------------------------------------------------------

    def standing(self) -> obeying.Standing:
        present, active_in = self._home.present(), self._home.active_in()
        return obeying.Standing(self._home.node, self.memory.holding.highest, self.memory.passive_of, active_in, present)

    def _admit(self, caller: Caller, version: Version) -> None:
        """Raises Refusal: another notifier is listened to."""
        self._heard(caller, version)
        self._admitted(version)

    def _heard(self, caller: Caller, version: Version) -> None:
        """As ``_admit``; changes nothing."""
        standing = self.standing()
        if instead := obeying.ignored(standing, caller.node, version):
            raise Refusal(f"{self._home.node} listens to the notifier of {instead}", "ignored", to=instead)
        if (higher := obeying.outdated(standing, version)) is not None:
            raise _outdated(higher)

    def _admitted(self, version: Version) -> None:
        """``version`` counts from now on, also where it is the lower one of two rivals whose epochs have the same number."""
        highest = self.memory.holding.highest
        if highest is not None and version < highest:
            log.warning("release %s gives way to %s: its notifier is not here any more", highest, version)
            self._remember(replace(self.memory, holding=Holding(version, self.memory.holding.holds)))

    def _remember(self, memory: Memory) -> None:
        if memory != self.memory:
            self._store.save(memory)
            self.memory = memory

    def _change(self, caller: Caller, change: Callable[[Holding], Any]) -> Any:
        """Let ``change`` change what is held, and store it."""
        held = replace(self.memory.holding)
        try:
            result = change(held)
        except Outdated as wrong:
            raise _outdated(wrong.highest) from wrong
        except Unprepared as wrong:
            raise Refusal(str(wrong), "unprepared") from wrong
        passive_of = "" if caller.node == self._home.node else self.memory.passive_of
        self._remember(replace(self.memory, holding=held, passive_of=passive_of))
        return result

    # --- requests -----------------------------------------------------------------------------------------------------------

    def _hello(self, fields: dict[str, Any], caller: Caller) -> dict[str, Any]:
        name, device = _word(fields, "name"), _word(fields, "device") or _word(fields, "name")
        if name != self._home.node:
            raise Refusal(f"this is {self._home.node}, not {name}: correct devices.xml", "name", node=self._home.node)
        version, kind = wire.version(fields.get("version")), str(fields.get("kind", ""))
        with self._lock:
            if self._listens(caller, version):
                self._admitted(version)
                self._change(caller, lambda held: held.admit(version))
                self._remember(replace(self.memory, device=device, kind=kind or self.memory.kind))
            held = self.memory.holding
            return {
                "node": self._home.node,
                "package": package(),
                "kind_ok": not kind or (kind == "Management Server") == self._home.policy_server(),
                "holds": wire.of_release(held.holds),
                "staged": wire.of_release(held.staged),
                "highest": wire.of_version(held.highest),
                "obeys": wire.of_version(obeying.outdated(self.standing(), version)),
                "free": self._trees.free,
                "listens": self.memory.passive_of,
            }

    def _listens(self, caller: Caller, version: Version) -> bool:
        standing = self.standing()
        return not obeying.ignored(standing, caller.node, version) and obeying.outdated(standing, version) is None

    def _status(self, fields: dict[str, Any], caller: Caller) -> dict[str, Any]:
        version = wire.version(fields.get("version"))
        if fields.get("isPassive") is True:
            self._is_passive(caller, version)
        held = self.memory.holding
        return {
            **self._home.state(),
            "node": self._home.node,
            "package": package(),
            "holds": wire.of_release(held.holds),
            "staged": wire.of_release(held.staged),
            "highest": wire.of_version(held.highest),
            "obeys": wire.of_version(obeying.outdated(self.standing(), version)),
            "listens": self.memory.passive_of,
            "free": self._trees.free,
        }

    def _is_passive(self, caller: Caller, version: Version) -> None:
        with self._lock:
            standing = self.standing()
            if not obeying.adopts(standing, caller.node, version):
                self._heard(caller, version)
                raise Refusal(f"{self._home.node} does not become the passive of {caller.node}", "ignored", to=self._home.node)
            if not self._home.policy_server():
                raise Refusal(f"{self._home.node} is no policy server: it can't be a passive one", "kind")
            if self.memory.passive_of != caller.node:
                self._home.adopted(caller.node)
                log.warning("listens to the notifier of %s from now on, not to its own: it says isPassive=1", caller.node)
                held = Holding(version, self.memory.holding.holds)
                self._remember(replace(self.memory, holding=held, passive_of=caller.node))

    def _introduce(self, fields: dict[str, Any], caller: Caller) -> dict[str, Any]:
        with self._lock:
            # The epoch of whoever asks counts: he names no release here.
            self._heard(caller, Version(caller.epoch[0], caller.node, _LAST))
            self._home.introduce(caller.node, _word(fields, "line"))
        return {}

    def _prepare(self, fields: dict[str, Any], caller: Caller) -> dict[str, Any]:
        release = wire.release(fields.get("release"))
        part, parts = fields.get("part", 1), fields.get("parts", 1)
        if not isinstance(part, int) or not isinstance(parts, int) or not 1 <= part <= parts <= MOST_PARTS:
            raise Unusable("part and parts make no sense")
        with self._lock:
            self._admit(caller, release.version)
            announced = self._part(caller.node, release, fields, part, parts)
            if part < parts:
                return {}
            del self._announced[caller.node]
            return self._begin(caller, release, self._wanted(announced))

    def _part(self, node: str, release: Release, fields: dict[str, Any], part: int, parts: int) -> _Announced:
        base = fields.get("from")
        if part == 1:
            self._announced[node] = _Announced(release, base if isinstance(base, str) else None, parts)
        announced = self._announced.get(node)
        if announced is None or (announced.release, announced.parts, announced.next) != (release, parts, part):
            raise Unusable(f"part {part} of {parts} was not to come now")
        announced.gone += wire.listed(fields, "gone")
        announced.changed += wire.listed(fields, "changed")
        announced.next += 1
        return announced

    def _wanted(self, announced: _Announced) -> Manifest:
        base = None
        if announced.base is not None and (base := self._bases.get(announced.base)) is None:
            raise Refusal("the manifest that the difference is based on is not here", "base")
        wanted = patched(base, announced.gone, announced.changed)
        if wanted.digest != announced.release.digest:
            raise Refusal(f"what was told of release {announced.release.version} is not its manifest", "base")
        return wanted

    def _begin(self, caller: Caller, release: Release, wanted: Manifest) -> dict[str, Any]:
        """The staging tree is to become ``wanted``; what does it take?"""
        self.preparation = None
        self._shut()
        self._change(caller, lambda held: held.prepare(release))
        missing, size = self._trees.lacks(wanted)
        free = self._trees.free
        needs = size + self._to_apply(wanted, free - size - SPARE)
        if needs and needs + SPARE > free:
            self.make_room()
            raise Refusal(self._too_small(size, needs, free), "full", free=free, needs=needs)
        bytes_of = wanted.contents
        self.preparation = Preparation(release, wanted, {sha: bytes_of[sha] for sha in missing})
        named = list(missing) if len(missing) <= MOST_NAMED else None
        return {"lacks": named, "count": len(missing), "bytes": size, "free": free}

    def _to_apply(self, wanted: Manifest, left: int) -> int:
        """Bytes that its modules take, too, while they are put in place; not counted where ``left`` is enough for all."""
        everything = sum(entry.size for entry in wanted.entries.values())
        return self._home.room(wanted, self.memory.device) if everything > left else 0

    def _too_small(self, size: int, needs: int, free: int) -> str:
        more = f", {sizes.size(needs - size)} more to put it in place" if needs > size else ""
        what = f"{sizes.size(size)} are needed to receive it{more}, and {sizes.size(SPARE)} stay free"
        return f"the disk of {self._trees.front.parent} is too small: {what}; {sizes.size(free)} are free. Make room there"

    def make_room(self) -> None:
        """Give back what a preparation that can't be finished has taken."""
        with self._lock, contextlib.suppress(OSError):
            self.preparation = None
            self._shut()
            self._trees.mirror()

    def _bulk(self, fields: dict[str, Any], caller: Caller) -> dict[str, Any]:
        release = wire.release(fields.get("release"))
        with self._lock:
            self._admit(caller, release.version)
            if self.preparation is None or self.preparation.release != release:
                raise Refusal(f"release {release.version} is not being prepared here", "unprepared")
            if self._transfers is None:
                raise HaError("there is no rsync here")
            self._shut()
            self._trees.open_to_others()
            self._open = True
            return {"port": self._transfers.start(release)}

    def _shut(self) -> None:
        """From here on nobody but this process writes into the staging tree. Raises OSError."""
        if self._open and self._transfers is not None:
            self._transfers.finish()
            self._trees.take_back()
            self._open = False

    def incoming(self, sha: str) -> Incoming:
        """A content that is coming. Raises Refusal if nobody needs it."""
        preparation = self.preparation
        if preparation is None or sha not in preparation.lacking:
            raise Refusal("that content is not needed: nothing that has it is being prepared", "unprepared")
        return self._trees.receive(sha, preparation.lacking[sha])

    def _prepared(self, fields: dict[str, Any], caller: Caller) -> dict[str, Any]:
        release = wire.release(fields.get("release"))
        with self._lock:
            self._admit(caller, release.version)
            preparation = self.preparation
            if preparation is None or preparation.release != release:
                raise Refusal(f"release {release.version} is not being prepared here", "unprepared")
            try:
                self._shut()
                self._build(preparation.wanted)
                self._trees.flush()
            except Wrong as wrong:
                raise Refusal(str(wrong), "unprepared") from wrong
            except OSError:
                self.make_room()
                raise
            found = preparation.release.digest
            self._change(caller, lambda held: held.prepared(release, found))
            self._bases[release.digest] = preparation.wanted
            self.preparation = None
        return {}

    def _build(self, wanted: Manifest) -> None:
        """The staging tree becomes ``wanted``, whatever was thought to lie there. Raises Wrong."""
        self._trees.build(wanted)
        if self._trees.verify() != wanted:
            self._trees.look()  # somebody has changed one of the trees
            self._trees.build(wanted)
            if self._trees.verify() != wanted:
                raise Wrong("what lies in the staging tree is not what it should be; somebody changes it, or the disk does")
        self._trees.staged = wanted  # it is equal, and its digest is known

    def _switch(self, fields: dict[str, Any], caller: Caller) -> dict[str, Any]:
        release = wire.release(fields.get("release"))
        with self._lock:
            self._admit(caller, release.version)
            step: Step = self._change(caller, lambda held: held.step(release))
            if step is Step.RENAME:
                self._trees.switch()
            self._change(caller, lambda held: held.switched(release))
            if step is Step.RENAME:
                log.info("release %s of %s is in force", release.version, caller.node)
                self.preparation = None
        self._home.switched()
        return {"step": step.value}

    # --- afterwards ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[tuple[Manifest | None, str]]:
        """What is in force, None if nothing is, and for which part of it this device is meant; no switch comes in between."""
        with self._lock:
            held = self.memory.holding.holds
            yield (None if held is None else self._trees.in_force), self.memory.device

    def settle(self) -> None:
        """After a switch: make the next one cheap. Raises OSError."""
        with self._lock:
            if self.preparation is None and self.memory.holding.staged is None:
                self._trees.mirror()
                self._digests()
            self._trees.save()

    def _digests(self) -> tuple[str, str]:
        in_force, staged = self._trees.in_force, self._trees.staged
        self._bases = {in_force.digest: in_force}
        if staged != in_force:
            self._bases[staged.digest] = staged
        return in_force.digest, in_force.digest if staged == in_force else staged.digest


def full(wrong: OSError) -> str:
    """Of no space, or no inodes."""
    where = f" ({wrong.filename})" if isinstance(wrong.filename, str) else ""
    return f"a disk of the device is full{where}: {wrong.strerror}. Make room there (`df -h`, `df -i`)"


def _outdated(highest: Version) -> Refusal:
    return Refusal(f"another notifier has been here: {highest}", "outdated", highest=wire.of_version(highest))


def _word(fields: Mapping[str, Any], name: str) -> str:
    found = fields.get(name, "")
    if not isinstance(found, str) or len(found) > 4096:
        raise Unusable(f"{name} is no word")
    return found


def _told(handler: Handler) -> Handler:
    """With the refusals that a notifier can tell apart."""

    def told(fields: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
        try:
            return handler(fields, caller)
        except Unusable as wrong:
            raise Refusal(str(wrong), "malformed") from wrong
        except OSError as wrong:
            if wrong.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Refusal(full(wrong), "full") from wrong
            raise HaError(f"the disk of the device: {wrong}") from wrong

    return told
