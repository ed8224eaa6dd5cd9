"""What heartbeat is told: observations of Postgres, the worker's state and signs of the peer, made into ``Facts``.

Promise: pure; remembers only since when something has been so. Nothing is reported that was not observed, and ``serial`` never
names a want that was carried out after the observation. Source: docs/protocols.md ("facts"); design §4 rules 1, 6, 7.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from ha_manager.care import disk_trouble, enforces, promoted_by_hand
from ha_manager.observation import NEAR, NOTHING, Observation, StandbyRow, standby_name
from ha_manager.orders import Epoch, Facts, Names, Phase, Postgres, Want

#: an observation older than this is one of a Postgres, or a monitor, that hangs (seconds)
STALE = 1.0
MIB = 1024 * 1024
#: the disk takes nothing of the log for so long, and commits wait for it: it hangs, or who writes there (seconds)
UNWRITTEN = 4.0
#: one read or write of the database's files takes so long: its disk hangs (a busy one takes its time over many, not over one)
UNREAD = 6.0
#: names that were proven are set again and proven within this time, or they count as loose (seconds)
LOOSE = 1.0


@dataclass(frozen=True)
class Carried:
    """Where the Postgres worker is. Replaced as a whole, so that any thread may read it."""

    #: newest want that is fully carried out; 0: none yet
    serial: int = 0
    #: which connection to heartbeat ``serial`` belongs to: a restarted heartbeat counts anew
    link: int = 0
    #: the receiver was stopped for good by this worker, and nothing has started it since
    detached: bool = False
    #: position of the latest proof that every commit waits; -1: the names are not enforced
    proven: int = -1
    prepared: bool = False
    shutdown_lsn: int = -1
    #: the active that Postgres was told to follow
    follow: Epoch = Epoch()
    #: ready | starting | copying | none | failed | unknown
    data: str = "unknown"
    #: a sentence while a copy runs
    copying: str = ""
    #: why the newest want can't be carried out; "" while it can
    trouble: str = ""
    #: the checkpoint after a promotion is done, in this epoch
    checkpointed: int = -1


@dataclass(frozen=True)
class Look:
    """One observation, with the worker's serial from *before* it was made."""

    observation: Observation = NOTHING
    serial: int = 0
    link: int = 0
    at: float = -inf
    #: ``Carried.proven``, likewise from before
    proven: int = -1


@dataclass(frozen=True)
class PeerSigns:
    """What the pinned session told: when the peer last said that it is active with a living heartbeat, any stand-down, and the
    newest epoch that it holds data of.
    """

    active_at: float = -inf
    stood_down: Epoch = Epoch()
    epoch: Epoch = Epoch()


@dataclass
class Outlook:
    """Keeps what takes time to see: since when a standby is gone, when a sign of service last came."""

    node: str
    peer: str
    #: bytes that must be free where the database is
    disk_needed: int = 64 * MIB
    _gone_since: float = inf
    _loose_since: float = inf
    _sign_at: float = -inf
    _sign: str = ""
    _seen_standby: set[str] = field(default_factory=set)

    def facts(self, want: Want | None, carried: Carried, look: Look, signs: PeerSigns, now: float, keeper: str = "") -> Facts:
        """The report of this moment. ``keeper``: what is wrong with the keeper, "" if nothing is."""
        seen = look.observation
        postgres = observed_state(seen, carried)
        epoch = want.epoch if want else Epoch()
        names = Names.ENFORCED if seen.names else Names.RELAXED
        name, primary = standby_name(self.peer, epoch.number), postgres is Postgres.PRIMARY
        row, behind = (seen.standby(name), seen.behind(name)) if primary else (None, -1)
        self._note_sign(seen, postgres, signs, row, now)
        because = self._trouble(want, carried, look, now, keeper)
        return Facts(
            serial=look.serial if look.link == carried.link else 0,
            postgres=postgres,
            healthy=not because,
            because=because or "everything is as it should be",
            data=_data(carried, seen, postgres),
            timeline=seen.timeline,
            lsn=seen.lsn,
            beyond=seen.beyond,
            following=self._following(seen, carried),
            caught_up=0 <= behind <= NEAR,
            proven=carried.proven if primary and enforces(seen.names, self.peer, epoch) else -1,
            names=names,
            stalled=max(self._stalled(seen, postgres, names, row, now), self._loose(want, look, carried, postgres, now)),
            sign_age=max(0.0, now - self._sign_at),
            sign=self._sign,
            peer_stood_down=signs.stood_down,
            peer_epoch=signs.epoch,
            prepared=carried.prepared,
            shutdown_lsn=carried.shutdown_lsn,
            behind=behind,
        )

    def _following(self, seen: Observation, carried: Carried) -> Epoch:
        number = seen.following
        if number < 0:
            return Epoch()
        return carried.follow if carried.follow.number == number else Epoch(number, self.peer)

    def _note_sign(self, seen: Observation, postgres: Postgres, signs: PeerSigns, row: StandbyRow | None, now: float) -> None:
        """Rule 1: replication that delivers, or the peer's own word. A connection is only as fresh as its messages."""
        candidates = [(signs.active_at, "the peer's ha_manager says: active, heartbeat alive")]
        if postgres is Postgres.STANDBY and seen.receiver is not None and seen.receiver.streaming:
            candidates.append((seen.at - seen.receiver.message_age, "the replication connection still delivers"))
        if row is not None:
            candidates.append((seen.at - row.reply_age, "the standby's status messages still arrive"))
        for at, words in candidates:
            if self._sign_at < at <= now:
                self._sign_at, self._sign = at, words

    def _stalled(self, seen: Observation, postgres: Postgres, names: Names, row: StandbyRow | None, now: float) -> float:
        """Seconds that commits have waited, or that the standby they would wait for has been gone."""
        if postgres is not Postgres.PRIMARY or names is not Names.ENFORCED:
            self._gone_since = inf
            return 0.0
        if row is not None and row.state == "streaming":
            self._gone_since = inf
        elif self._gone_since == inf:
            self._gone_since = seen.at
        gone = max(0.0, now - self._gone_since) if self._gone_since < inf else 0.0
        waited = seen.stalled + max(0.0, now - seen.at) if seen.stalled > 0 else 0.0
        return max(gone, waited)

    def _loose(self, want: Want | None, look: Look, carried: Carried, postgres: Postgres, now: float) -> float:
        """Seconds for which commits have not waited although that was made so, and could not be made so again (ALTER SYSTEM):
        as good as a standby that is gone, and ended likewise, by a release (design §4 rule 6).
        """
        wanted = want is not None and want.names is Names.ENFORCED and postgres is Postgres.PRIMARY
        carried_out = want is not None and look.link == carried.link and look.serial >= want.serial
        if not (wanted and carried_out and want and not enforces(look.observation.names, self.peer, want.epoch)):
            self._loose_since = inf
            return 0.0
        self._loose_since = min(self._loose_since, now)
        return now - self._loose_since if now - self._loose_since > LOOSE else 0.0

    def _trouble(self, want: Want | None, carried: Carried, look: Look, now: float, keeper: str) -> str:
        """Everything that stands against serving or promoting, the worst first; "" if nothing does."""
        seen = look.observation
        if keeper:
            return f"the keeper of Postgres is in trouble: {keeper}"
        if carried.copying:
            # Without how far it is: an alarm is told whenever its words change.
            return carried.copying.partition(": ")[0]
        # where both are so, the full disk is why, and what somebody can do something about
        full = next((words for disk in seen.disks if (words := disk_trouble(disk, self.disk_needed))), "")
        if carried.trouble:
            return full or carried.trouble
        if seen is NOTHING:
            return seen.because
        if now - look.at > STALE:
            return f"Postgres could not be looked at for {now - look.at:.1f} s"
        if full:
            return full
        if want is None or want.postgres in (Postgres.KEEP, Postgres.STOPPED):
            return ""
        if not (seen.state == "running" and seen.answers):
            return in_short(seen)
        if seen.unwritten > UNWRITTEN:
            return "nothing of the log of changes gets to the disk: it does not answer, or a process of Postgres hangs"
        if seen.unread > UNREAD:
            return "the disk of the database does not answer: what is to be read or written there waits"
        if want.postgres is not Postgres.PRIMARY and not seen.in_recovery:
            return promoted_by_hand(self.peer)
        return ""


def in_short(seen: Observation) -> str:
    """Why a Postgres doesn't serve; what it says of itself only where that is more than the state already tells."""
    own = seen.because if not seen.because.startswith("Postgres ") else ""
    if seen.state == "running":
        state = "Postgres does not answer" if own else seen.because or "Postgres does not answer"
    else:
        state = "whether Postgres runs is not known yet" if seen.state == "unknown" else f"Postgres is {seen.state}"
    return f"{state}: {own}" if own else state


def is_calm(want: Want, carried: Carried, seen: Observation, peer: str) -> bool:
    """What is wanted holds, and replication runs as it should: there is nothing that has to be noticed within a tenth of a
    second. A Postgres that ends is told by its keeper.
    """
    if carried.serial != want.serial or carried.trouble or not seen.answers or seen.stalled > 0:
        return False
    if want.phase is Phase.ACTIVE:
        row = seen.standby(standby_name(peer, want.epoch.number))
        return want.names is Names.ENFORCED and carried.proven >= 0 and row is not None and row.state == "streaming"
    return want.phase is Phase.PASSIVE and want.follow != Epoch() and seen.following == want.follow.number


def observed_state(seen: Observation, carried: Carried) -> Postgres:
    """What ``docs/protocols.md`` calls the state of Postgres, from one look."""
    if seen.state == "stopped":
        return Postgres.STOPPED
    if seen.state != "running" or not seen.answers:
        return Postgres.UNKNOWN
    if not seen.in_recovery:
        return Postgres.PRIMARY
    if carried.detached and not seen.primary_conninfo and seen.receiver is None:
        return Postgres.DETACHED
    return Postgres.STANDBY


def _data(carried: Carried, seen: Observation, postgres: Postgres) -> str:
    if carried.copying:
        return "copying"
    if carried.data == "ready" and (seen.state == "starting" or postgres is Postgres.UNKNOWN):
        return "starting"
    return carried.data
