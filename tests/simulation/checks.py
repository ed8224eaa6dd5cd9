"""What must hold in every run.

1. No acknowledged write is lost: whoever acknowledges, or is active at the end, holds everything acknowledged before by
   anyone.
2. Once a reign (one promotion of one Postgres) has been followed by another one that acknowledged, it never acknowledges
   again.
3. Two servers answer for the VIP together for no longer than ``OVERLAP`` (a takeover from a server that is heard but can't
   hear: the announcement's delivery; two actives: rule 8's handover, on purpose).
4. Roles don't flap: changes to active are bounded by the faults.
5. Once the faults are over: one active, one fit passive in sync, the client served, within ``RECOVERY``.

Exception (design §4, "What stays impossible"; ``undecidable``): as long as one server can't know that the other one took over,
both may answer for the VIP, and if it then goes on alone, 1 and 2 can't hold either. With ``solo="release"``, the ARP check,
fence devices or witnesses those hold in every schedule. (A silent active whose VIP went elsewhere is told by the ARP check
alone; that takes it a deadtime.)

Where commits don't wait (synchronous="off" on both), a takeover may lose some, and says so; then 1 and 2 mean: nothing
acknowledged while commits waited is lost, at any time; of the rest, what was acknowledged before the passive was last called
fit, but for the maximum lag; nothing where the other server let go of its own accord. A former reign may acknowledge for
``LATE`` to clients on its own host, for ``LATE_BY_VIP`` through the VIP: until it has noticed (longer where it can't know).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from heartbeat.model import Epoch, Phase, Record, RoleChanged

from .network import other
from .postgres import PRIMARY
from .undecidable import Undecidable

if TYPE_CHECKING:
    from .server import Server
    from .world import World

OVERLAP = 1.0
RECOVERY = 30.0
LATE, LATE_BY_VIP = 1.5, 0.3
#: what stays in order for so long is settled
STEADY = 1.0
#: seconds between two looks of an ha_manager at its Postgres, and until they are heard
LOOKS = 0.15


Takeover = tuple[float, bool, str]


class Checks:
    def __init__(self, world: World) -> None:
        self.world = world
        self.acked: list[int] = []
        self.failures: list[str] = []
        self.undecidable = Undecidable(world)
        self.settled_at: float | None = None
        self.served_at = 0.0
        self.outages: list[tuple[float, float]] = []
        self.activations = 0
        self.copies = 0
        self._given_up = False
        self._forced_epoch = 0
        #: acknowledged without having waited for the passive: entry → when; lost, as it may be, by takeovers
        self.unawaited: dict[int, float] = {}
        self.forgone = 0
        self._reign_at = -inf
        #: when a takeover began; whether the other server had let go; what it said of what may be lost
        self._begun: Takeover = (-inf, False, "")
        #: the first one since anybody acknowledged, and what all said: one that dies at once leaves its losses to the next
        self._taken: Takeover | None = None
        #: the run of a Postgres that acknowledges, and the number of its server's epoch when it began to
        self._reign = self._number = 0
        self._closed: set[int] = set()
        self._overlap = self._settled = 0.0

    def fail(self, kind: str, text: str) -> None:
        if kind in ("lost", "double", "untold") and self.waived:
            return
        now = self.world.engine.now
        self.world.note("check", f"FAILED {kind}: {text}")
        self.failures.append(f"{kind}: {text} (at {now:.3f} s)")
        self.world.engine.stop = True

    @property
    def waived(self) -> bool:
        """The schedule is one of those in which safety is impossible: without solo="release", or by an operator's word."""
        if self._given_up:
            return True
        setting = self.world.setting
        backed = (setting.arp_check and not self.undecidable.unasked) or setting.fence or setting.witnesses
        return self.undecidable.split and setting.solo == "silence" and not setting.strict and not backed

    @property
    def kind(self) -> str:
        """The first failure's kind, "" without any."""
        return self.failures[0].split(":")[0] if self.failures else ""

    # --- told by the world ----------------------------------------------------------------------------------------------

    def acknowledged(self, server: Server, entry: int, by_vip: bool) -> None:
        reign = server.postgres.reign
        number = server.disk.record.epoch.number
        if reign != self._reign:
            if (reign in self._closed or number < self._number) and not self.waived:
                self._late(server, entry, by_vip)
                return
            self._closed.add(self._reign)
            self._reign, self._number, self._reign_at = reign, number, self.world.engine.now
            self._holds_all(server, "acknowledges")
            self._taken = None
        self.acked.append(entry)
        if server.postgres.names_applied is None:
            self.unawaited[entry] = self.world.engine.now
            if server.disk.record.lax and not server.disk.record.solo and not self.world.off_on_both:
                self.fail("unawaited", f"{server.name} acknowledges {entry} alone, and only one server is configured so")
        if by_vip:
            now = self.world.engine.now
            if now - self.served_at > 0.3:
                self.outages.append((self.served_at, now - self.served_at))
            self.served_at = now

    def vip_taken(self, server: Server) -> None:
        """A former holder that can't be told any more must have lost its lease before its silence ends its reign (rule 5)."""
        peer, core = server.peer, server.heartbeat.core
        if core is None or not peer.answers() or peer.heartbeat.works:
            return
        if core.phase is Phase.ACTIVE and self.undecidable.untold:
            return  # restarted within its lease, after a takeover that the other one could not know of
        silent = core.members.silent_for()
        if silent < server.timing.lease:
            self.fail(
                "vip", f"{server.name} takes the VIP {silent:.2f} s after {peer.name} was heard, which still answers for it"
            )

    def _late(self, server: Server, entry: int, by_vip: bool) -> None:
        """A write of a former reign is confirmed: harmless if its standby's word was on its way: the reigning one holds it."""
        if any(s.postgres.reign == self._reign and entry in s.postgres.log for s in self.world.servers.values()):
            self.acked.append(entry)
        elif self._may_be_late(server, by_vip):
            self.forgone += 1
        else:
            self.fail("double", f"{server.name} acknowledges {entry} in a reign that another one had followed")

    def _holds_all(self, server: Server, does: str) -> None:
        missing = set(self.acked).difference(server.postgres.log)
        if missing and self._may_lack(missing):
            said = (self._taken or self._begun)[2]
            if "asynchronous" not in said:
                self.fail("untold", f"{server.name} lacks {len(missing)} acknowledged writes; it says {said!r}")
            self.forgone += len(missing)
            self.acked = [entry for entry in self.acked if entry not in missing]
        elif missing:
            self.fail("lost", f"{server.name} {does} without {len(missing)} acknowledged writes, e.g. {min(missing)}")

    def _may_lack(self, missing: set[int]) -> bool:
        """Commits didn't wait: what was acknowledged after the passive was last called fit may go, and the maximum lag."""
        opened_at, let_go, _ = self._taken or self._begun
        if let_go or any(entry not in self.unawaited for entry in missing):
            return False
        called = opened_at - self.world.timing.stale - 2 * LOOKS
        old = sum(self.unawaited[entry] < called for entry in missing)
        return old <= self.world.sites["A"].maximum_lag and self.world.off_on_both

    def _may_be_late(self, server: Server, by_vip: bool) -> bool:
        noticed = max(self._reign_at, server.thawed_at) + (LATE_BY_VIP if by_vip else LATE)
        return self.world.off_on_both and (self.world.engine.now < noticed or self.undecidable.blind)

    def _forced(self, server: Server) -> None:
        """An operator gave up what only the other server holds; with both serving there is nothing left to check."""
        core, held = server.heartbeat.core, set(server.postgres.log)
        self._forced_epoch = core.opening.number if core is not None else 0
        self.acked = [entry for entry in self.acked if entry in held]
        self._given_up = self._given_up or server.peer.postgres.mode == PRIMARY

    def persists(self, server: Server, record: Record) -> None:
        """An active that goes solo; if it was released, the other one has not taken over."""
        core = server.heartbeat.core
        if core is not None and core.phase is Phase.ACTIVE and record.solo and not core.disk.solo:
            self.undecidable.went_solo(server)

    def role_changed(self, server: Server, change: RoleChanged) -> None:
        core = server.heartbeat.core
        if change.before is change.after:
            return  # something else is told
        if change.after is Phase.OPENING and core is not None and core.takeover.by_silence:
            # one that let go and comes back goes on alone; anybody else takes over
            (self.undecidable.went_solo if core.disk.stood_down else self.undecidable.took_over)(server)
        if change.after is Phase.OPENING:
            record = server.peer.disk.record
            own = core.disk.epoch if core is not None else Epoch()
            let_go = record.stood_down and not record.lax and record.epoch == own
            self._begun = (self.world.engine.now, let_go or "the active stood down" in change.because, change.because)
        if change.after is Phase.PROMOTING:
            at, let_go, said = self._taken or self._begun
            self._taken = (at, let_go, f"{said}; {self._begun[2]}")
            if "running solo when it stopped" in self._begun[2] and server.disk.record.previous.number <= self._forced_epoch:
                # it never heard of the operator's decision, and its own disk says that nobody else could be active
                self._given_up = True
        if change.after is Phase.OPENING and "forced by" in change.because:
            self._forced(server)
        if change.after is Phase.ACTIVE and change.before is Phase.PROMOTING:
            self.activations += 1
            if self.activations > 2 * len(self.world.schedule) + 4:
                self.fail("flap", f"{self.activations} activations for {len(self.world.schedule)} faults")

    # --- looked at every 50 ms ------------------------------------------------------------------------------------------

    def look(self, period: float) -> None:
        a, b = self.world.servers.values()
        setting, undecidable = self.world.setting, self.undecidable
        undecidable.look(period)
        unknowing = undecidable.untold and not (setting.arp_check and setting.strict)
        anew = undecidable.split and undecidable.anew
        self._overlap = self._overlap + period if a.answers() and b.answers() and not unknowing and not anew else 0.0
        if self._overlap > OVERLAP + (self.world.timing.deadtime if setting.arp_check else 0.0):
            self.fail("vip", f"both servers have answered for the VIP for {self._overlap:.2f} s")

    def settled(self, period: float) -> bool:
        """The pair has been in order for a while."""
        self._settled = self._settled + period if self.in_order() else 0.0
        return self._settled >= STEADY

    def in_order(self) -> bool:
        servers = self.world.servers
        for name, server in servers.items():
            core, peer = server.heartbeat.core, servers[other(name)].heartbeat.core
            if core is None or peer is None or core.phase is not Phase.ACTIVE:
                continue
            return (
                peer.phase is Phase.PASSIVE
                and not core.disk.solo
                and core.disk.lax == peer.disk.lax == core.rules.asynchronous()
                and peer.disk.in_sync
                and peer.disk.epoch == core.disk.epoch
                and not peer.rules.unfit()
                and self.world.engine.now - self.served_at < 0.3
            )
        return False

    def finish(self) -> None:
        """At the end of the run: everything acknowledged is where the clients are served."""
        actives = [s for s in self.world.servers.values() if s.heartbeat.core and s.heartbeat.core.phase is Phase.ACTIVE]
        if self.settled_at is None:
            state = ", ".join(f"{s.name}: {self._state(s)}" for s in self.world.servers.values())
            late = self.world.engine.now - self.world.faults_end
            self.fail("stuck", f"no pair in order {late:.0f} s after the faults: {state}")
        for server in actives:
            if server.postgres.mode == "primary":
                self._holds_all(server, "is active at the end")

    @staticmethod
    def _state(server: Server) -> str:
        core = server.heartbeat.core
        if core is None:
            return "no heartbeat"
        unfit = f", unfit: {core.rules.unfit()}" if core.phase is Phase.PASSIVE else ""
        return f"{core.phase} in {core.disk.epoch} ({core.because}), Postgres {server.postgres.mode}{unfit}"
