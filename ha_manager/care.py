"""What ails a Postgres that is watched, in words, and what is done about it in place.

Promise: pure; remembers only since when something has been so. An alarm says what is wrong and what it means; a remedy is
asked for only where it can't lose an acknowledged write, and again until it is no longer needed. What makes a server unable to
serve is ``outlook``'s: heartbeat then hands over. Source: design §4 rules 3, 6, 11; facts/postgres.md 9; issue "Postgres: no
acknowledged write lost" (in-place care).

| what is seen | on | alarm | remedy |
|---|---|---|---|
| a postmaster that isn't the keeper's | both | foreign | END_FOREIGN |
| files of ours are gone, without which Postgres takes no other settings | both | own-files | REMAKE |
| the administrator's settings can't be used, or can be again | both | settings | SETTINGS |
| ALTER SYSTEM overrides a setting of ours | both | overridden | RESET |
| ``synchronous_standby_names`` is not what is wanted and was proven | active | names | PROVE |
| the peer's slot lost or gone, the replication role gone or without its rights | active | slot | SETTLE |
| little of the log that may be kept back is left | active | slot | |
| what is kept back for an absent passive fills the disk | active, solo | slot | RELEASE_LOG |
| a walsender that hangs, and holds the slot of a standby that is back | active | sender | WAKE |
| clients have (nearly) all connections | both | connections | |
| the log is to be archived, and isn't | both | archive | |
| a file system is nearly full | both | disk-… | |
| a primary where a standby is wanted | passive | promoted | (the worker replaces it) |
| replay paused by hand | passive | replay | |
| replay stuck | passive | replay | WAKE, then RESTART |
| a walreceiver that neither gets nor says anything, nor ends | passive | receiver | WAKE, then END_RECEIVER |
| much is still to be replayed, or to be received | both | lag | |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from ha_manager.observation import (
    COPIES,
    DATABASE,
    LOG,
    MESSAGES,
    STATE,
    Disk,
    Observation,
    Slot,
    epoch_of,
    slot_name,
    standby_name,
)
from ha_manager.orders import Epoch, Names, Phase, Postgres, Want

MIB = 1024 * 1024
#: a walreceiver whose partner is silent ends by itself after wal_receiver_timeout (3 s): one that doesn't hangs (seconds)
HUNG_RECEIVER = 4.5
#: likewise a walsender, by wal_sender_timeout
HUNG_SENDER = HUNG_RECEIVER
#: likewise one that sends log to a copy: pg_basebackup speaks every ten seconds
HUNG_COPY = 25.0
#: it was woken, and hangs still
DEAD_RECEIVER = 7.0
#: max_standby_streaming_delay (5 s) ends queries that hold replay up: longer than that, it is something else. A single
#: record may take minutes (a database that is created copies its template), and would begin anew after a restart
STUCK_REPLAY, DEAD_REPLAY = 8.0, 900.0
#: a record that has arrived in part can't be replayed yet, and may stay so on an idle server (bytes)
NEARLY = 16 * 1024
#: that much is replayed in a second or less; more, for so long (seconds), is an alarm
LAG_BYTES, LAG_SECONDS = 256 * MIB, 10.0
#: giving up less than that makes no room
WORTH_RELEASING = 256 * MIB
#: connections left
FEW_PLACES = 3


class Remedy(StrEnum):
    END_FOREIGN = "end a Postgres that ha_manager's keeper did not start"
    REMAKE = "write ha_manager's own files again"
    SETTINGS = "let Postgres go by the administrator's settings where they can be used, else by those that could be last"
    RESET = "take back what ALTER SYSTEM overrides"
    PROVE = "set the names of who must acknowledge, and prove it again"
    SETTLE = "make slot and role of the other server again"
    RELEASE_LOG = "give up the log of changes that is kept back for the other server"
    WAKE = "wake processes of Postgres that are stopped"
    END_RECEIVER = "end the walreceiver; Postgres starts another one"
    RESTART = "restart Postgres"


#: what a remedy would be wrong for anything else but
MEANT_FOR = {
    Remedy.PROVE: Postgres.PRIMARY, Remedy.SETTLE: Postgres.PRIMARY, Remedy.RELEASE_LOG: Postgres.PRIMARY,
    Remedy.END_RECEIVER: Postgres.STANDBY, Remedy.RESTART: Postgres.STANDBY,
}  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """``alarms``: every name this module knows, "" where nothing is wrong; ``remedies`` in the order to apply them."""

    alarms: dict[str, str]
    remedies: tuple[Remedy, ...] = ()


Found = Iterator[tuple[str, str, Remedy | None]]

_ALARMS = (
    "foreign", "own-files", "settings", "overridden", "names", "slot", "sender", "connections", "archive", "promoted", "replay",
    "receiver", "lag", "disk-database", "disk-log", "disk-state", "disk-messages",
)  # fmt: skip
_DISK_ALARMS = {
    DATABASE: "disk-database", LOG: "disk-log", STATE: "disk-state", MESSAGES: "disk-messages",
}  # fmt: skip


_NOTHING = Want(0, Phase.WAITING, Epoch(), Postgres.KEEP)


class Care:
    def __init__(self, peer: str, disk_needed: int) -> None:
        """``disk_needed``: bytes below which this server counts as unable to serve (``outlook``)."""
        self._peer = peer
        self._needed = disk_needed
        self._since: dict[str, float] = {}
        self._replayed = -1

    def look(self, want: Want | None, proven: int, seen: Observation, now: float) -> Findings:
        """``proven``: position of the latest proof that every commit waits; -1: none, or none is wanted."""
        found = list(self._found(want or _NOTHING, proven, seen, now))
        alarms = dict.fromkeys(_ALARMS, "")
        for name, words, _ in found:
            alarms[name] = alarms[name] or words
        wanted = {remedy for _, _, remedy in found if remedy is not None}
        return Findings(alarms, tuple(remedy for remedy in Remedy if remedy in wanted) if wanted else ())

    def _found(self, want: Want, proven: int, seen: Observation, now: float) -> Found:
        yield from self._disks(seen)
        if seen.foreign and want.postgres is not Postgres.KEEP:
            words = f"somebody started a Postgres on this server's data by hand (process {seen.foreign}): it follows"
            yield "foreign", f"{words} nobody, and is ended; only ha_manager starts one here", Remedy.END_FOREIGN
        if seen.unusable and want.postgres is not Postgres.KEEP:
            yield "settings", f"{seen.unusable}: until then Postgres goes by the settings that it had before", None
        if not seen.answers:
            return
        if seen.settings_due and want.postgres is not Postgres.KEEP:
            yield "settings", "", Remedy.SETTINGS
        if seen.missing and want.postgres is not Postgres.KEEP:
            words = f"somebody removed {', '.join(seen.missing)}, without which the settings of Postgres can't be changed"
            yield "own-files", f"{words}: made again as Postgres runs", Remedy.REMAKE
        if seen.overridden:
            names = ", ".join(seen.overridden)
            yield "overridden", f"ALTER SYSTEM set {names}, which ha_manager decides: it is taken back", Remedy.RESET
        yield from self._clients(seen)
        if want.postgres is Postgres.PRIMARY and not seen.in_recovery:
            yield from self._active(want, proven, seen, now)
        elif want.postgres in (Postgres.STANDBY, Postgres.DETACHED):
            yield from self._passive(want, seen, now)

    def _lasting(self, name: str, so: bool, now: float) -> float:
        """Seconds for which ``so`` has been true; 0 when it isn't."""
        if not so:
            self._since.pop(name, None)
            return 0.0
        return now - self._since.setdefault(name, now)

    # --- both -------------------------------------------------------------------------------------------------------------

    def _disks(self, seen: Observation) -> Found:
        for disk in seen.disks:
            if words := disk_trouble(disk, self._needed) or self._disk_warning(disk):
                yield _DISK_ALARMS[disk.use], words, None

    def _disk_warning(self, disk: Disk) -> str:
        if disk.free >= 4 * needed(disk, self._needed):
            return ""
        step = needed(disk, self._needed)
        words = (
            f"the disk of {disk.use} ({disk.path}) is nearly full: less than {(disk.free // step + 1) * step // MIB} MiB free"
        )
        if disk.use == MESSAGES:
            return f"{words}; service isn't touched"
        return f"{words}, with less than {step // MIB} this server can't serve{_makes_room(disk)}"

    def _clients(self, seen: Observation) -> Found:
        vitals = seen.vitals
        if vitals is None:
            return
        if seen.crowded or vitals.clients > vitals.places - FEW_PLACES:
            words = f"clients have all but a few of Postgres's {vitals.places} connections (most: {vitals.busiest})"
            yield "connections", f"{words}: others are refused; ha_manager has places of its own", None
        if vitals.unarchived:
            words = f"{roughly(vitals.unarchived)} MiB of the log of changes have waited for more than a minute to be archived"
            why = "archive_command (archive_library) fails, hangs or is too slow; Postgres's log says more"
            yield "archive", f"{words}, and stay on the disk until they are: {why}", None

    # --- the active -------------------------------------------------------------------------------------------------------

    def _active(self, want: Want, proven: int, seen: Observation, now: float) -> Found:
        if want.names is Names.ENFORCED and proven >= 0 and not enforces(seen.names, self._peer, want.epoch):
            words = f"commits stopped waiting for {self._peer}: somebody changed synchronous_standby_names to {seen.names!r}"
            yield "names", f"{words}; it is set again", Remedy.PROVE
        slot = next((each for each in seen.slots if each.name == slot_name(self._peer)), None)
        if want.phase is Phase.ACTIVE:
            yield from self._slot(want, slot, seen, now)
        yield from self._sender(seen)
        row = seen.standby(standby_name(self._peer, want.epoch.number))
        behind = row is not None and row.flushed >= 0 and seen.lsn - row.flushed > LAG_BYTES
        if self._lasting("lag", behind, now) > LAG_SECONDS and row is not None:
            missing = roughly(seen.lsn - row.flushed)
            yield "lag", f"{self._peer} lacks {missing} MiB of the log of changes: it can't take over before it has them", None

    def _sender(self, seen: Observation) -> Found:
        """Of any epoch, or to a copy: one that is stopped can't end, and until it does no other connection gets the slot."""
        if any(row.state == "streaming" and row.reply_age > _patience(row.name) for row in seen.standbys):
            yield (
                "sender",
                f"a walsender hangs, and {self._peer} can't stream while it holds its slot: it is woken",
                Remedy.WAKE,
            )

    def _is_in_the_way(self, want: Want, slot: Slot, seen: Observation) -> bool:
        """An absent passive must not stop the active: it can be copied afresh. What is given up makes room at the end of a
        checkpoint only, and until then as much is written as between any two.
        """
        meanwhile = seen.vitals.between_checkpoints if seen.vitals is not None else 0
        kept = seen.lsn - slot.restart
        away = want.names is Names.RELAXED and not slot.active and slot.restart >= 0
        disk = next((disk for use in (LOG, DATABASE) for disk in seen.disks if disk.use == use), None)
        if not away or disk is None:
            return False
        least = needed(disk, self._needed)
        # On a small disk what makes no room elsewhere decides whether Postgres runs on.
        worth = WORTH_RELEASING if disk.free >= least else least
        return kept > worth and disk.free < 2 * least + meanwhile

    def _slot(self, want: Want, slot: Slot | None, seen: Observation, now: float) -> Found:
        role = seen.vitals is None or seen.vitals.role
        if self._lasting("slot", slot is None or slot.wal_status == "lost" or not role, now) > 1.0:
            what = "the replication role was dropped or lost its rights"
            if role:
                lost = f"{self._peer} was away for longer than log could be kept back: it is copied afresh when it is back"
                what = lost if slot is not None else f"the replication slot of {self._peer} was dropped"
            yield "slot", f"{what}; it is made again", Remedy.SETTLE
        elif slot is not None and self._is_in_the_way(want, slot, seen):
            words = (
                f"the disk is nearly full, with what is written between two checkpoints (max_wal_size), and"
                f" {roughly(seen.lsn - slot.restart)} MiB of the log of changes are kept back for"
            )
            yield (
                "slot",
                f"{words} {self._peer}, which is away: they are given up, it will be copied afresh",
                Remedy.RELEASE_LOG,
            )
        elif slot is not None and not slot.active and 0 <= slot.safe_wal_size < (seen.lsn - slot.restart) // 3:
            words = (
                f"{roughly(seen.lsn - slot.restart)} MiB of the log of changes are kept back for {self._peer}, which is away"
            )
            left = roughly(slot.safe_wal_size)
            yield "slot", f"{words}; after {left} MiB more they are given up, and it will have to be copied afresh", None

    # --- the passive ------------------------------------------------------------------------------------------------------

    def _passive(self, want: Want, seen: Observation, now: float) -> Found:
        if not seen.in_recovery:
            yield "promoted", promoted_by_hand(self._peer), None
            return
        waits = seen.replayed >= 0 and seen.lsn - seen.replayed > NEARLY
        if seen.replayed != self._replayed:
            self._since.pop("replay", None)
        self._replayed = seen.replayed
        stuck = self._lasting("replay", waits, now)
        missing = roughly(max(0, seen.lsn - seen.replayed))
        if seen.replay_paused:
            why = "by hand (pg_wal_replay_pause), or by Postgres, because a setting is smaller here than on the active"
            words = f"replay is paused {why}: {missing} MiB wait, reads here are old"
            yield "replay", f"{words}; nothing is lost, and a takeover ends the pause", None
        elif stuck > STUCK_REPLAY:
            yield "replay", f"replay has stood still for more than {STUCK_REPLAY:.0f} s: {_held_by(seen)}", Remedy.WAKE
            if stuck > DEAD_REPLAY:
                yield "replay", "", Remedy.RESTART
        if self._lasting("lag", seen.lsn - seen.replayed > LAG_BYTES and seen.replayed >= 0, now) > LAG_SECONDS:
            yield "lag", f"{missing} MiB of the log of changes wait for replay here: a takeover now would take longer", None
        yield from self._receiver(want, seen)

    def _receiver(self, want: Want, seen: Observation) -> Found:
        receiver = seen.receiver
        # One that waits has come to the end of a timeline; every other one speaks with its partner, or ends.
        if want.follow == Epoch() or receiver is None or receiver.status == "waiting" or receiver.message_age < HUNG_RECEIVER:
            return
        yield "receiver", "the walreceiver hangs: it is woken, then ended and another one started", Remedy.WAKE
        if receiver.message_age > DEAD_RECEIVER:
            yield "receiver", "", Remedy.END_RECEIVER


def _patience(name: str) -> float:
    """A standby of this name, or a copy, that has said nothing for longer hangs (seconds)."""
    return HUNG_SENDER if epoch_of(name) >= 0 else HUNG_COPY if name.startswith(COPIES) else inf


def roughly(size: int) -> str:
    """MiB in words that don't change all the time: an alarm is logged when its words do."""
    return f"more than {1 << (size // MIB).bit_length() - 1}" if size >= MIB else "less than 1"


def _held_by(seen: Observation) -> str:
    vitals = seen.vitals
    if vitals is not None and ("RecoveryConflict" in vitals.replay_waits or vitals.replay_waits.startswith("Lock")):
        return f"a client's transaction here stands against it ({vitals.oldest or 'it is not seen'}); it is ended after 5 s"
    oldest = f", or a client's transaction ({vitals.oldest})" if vitals is not None and vitals.oldest else ""
    return (
        f"the startup process is stopped or waits for the disk{oldest}; it is woken, after {DEAD_REPLAY / 60:.0f} min restarted"
    )


def promoted_by_hand(peer: str) -> str:
    """Of a passive that takes writes."""
    return (
        f"somebody promoted the database of this passive server by hand: what is written to it is acknowledged by it alone;"
        f" it is stopped, kept where it differs, and made to follow {peer} again"
    )


def enforces(names: str, peer: str, epoch: Epoch) -> bool:
    """Does ``synchronous_standby_names`` name the peer's standby of this epoch, and nobody else?"""
    return names.strip().strip('"') == standby_name(peer, epoch.number)


# --- disks -------------------------------------------------------------------------------------------------------------------


def needed(disk: Disk, of_database: int) -> int:
    """Bytes that must be free there."""
    return of_database if disk.use in (DATABASE, LOG) else min(of_database, 8 * MIB)


def disk_trouble(disk: Disk, of_database: int) -> str:
    """Why this server can't serve with that disk; "" if it can. Messages may be lost, service goes on."""
    if disk.use == MESSAGES:
        return ""
    if disk.read_only:
        return f"the disk of {disk.use} ({disk.path}) can't be written to: the kernel makes it read-only after errors"
    if disk.free < needed(disk, of_database):
        least = needed(disk, of_database) // MIB
        return f"the disk of {disk.use} ({disk.path}) is full: {disk.free // MIB} MiB free, {least} needed{_makes_room(disk)}"
    return ""


def _makes_room(disk: Disk) -> str:
    """What an operator can do about it, where it may help."""
    return "; `ha diverged` lists what is kept here of earlier databases, `ha diverged remove` frees it" if disk.kept else ""


# --- an active that dies again and again --------------------------------------------------------------------------------------

#: more deaths than this within the window, and Postgres counts as broken on this server
DEATHS, DEATH_WINDOW = 3, 60.0
#: where nobody else could serve it is started again after so long all the same
ALONE = 5.0


class Deaths:
    """A Postgres that dies is restarted in place, but not for ever where another server may do better."""

    def __init__(self) -> None:
        self._at: list[float] = []

    def died(self, now: float) -> None:
        self._at = [at for at in self._at if now - at <= DEATH_WINDOW] + [now]

    def too_often(self, now: float, alone: bool) -> str:
        """Why it is not started again now, or "". ``alone``: commits don't wait for the passive, which hardly could serve."""
        self._at = [at for at in self._at if now - at <= DEATH_WINDOW]
        if len(self._at) <= DEATHS or (alone and now - self._at[-1] >= ALONE):
            return ""
        return f"Postgres has died {len(self._at)} times within {DEATH_WINDOW:g} s; see its log"


# --- a standby that doesn't start --------------------------------------------------------------------------------------------

#: so many attempts in a row, then its data counts as damaged
ATTEMPTS = 3
#: one copy in this time: what a copy did not cure it won't cure again (seconds)
COPY_AGAIN = 3600.0
#: in Postgres's last words: nothing that a copy of the database would cure
_NOT_THE_DATA = (
    "No space left", "could not bind", "Address already in use", "configuration", "parameter", "shared memory",
    "Cannot allocate", "out of memory", "lock file", "could not load library", "could not access file", "certificate",
    "private key", "authentication", "pg_hba", "permitted to log in", "does not exist",
    "Too many open files", "Read-only file system", "timezone", "locale",
)  # fmt: skip
#: … but this is the data, whatever else is said ("database does not exist: the database subdirectory is missing")
_THE_DATA = ("database subdirectory", "is not a valid data directory")


def is_damaged(attempts: int, last_words: str, since_copy: float) -> bool:
    """A standby that has not come up ``attempts`` times in a row: would a fresh copy of its active's database cure it?"""
    curable = any(words in last_words for words in _THE_DATA) or not any(words in last_words for words in _NOT_THE_DATA)
    return attempts >= ATTEMPTS and curable and since_copy > COPY_AGAIN
