"""The Postgres worker: each want carried out, newest first, with a recording database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from ha_manager.care import ATTEMPTS, Remedy
from ha_manager.following import HANDED_OVER
from ha_manager.observation import Identity, Observation, Progress, Receiver, Stopped, Upstream
from ha_manager.orders import Epoch, Names, Phase, Postgres, Stop, Want
from ha_manager.outlook import Look, observed_state
from ha_manager.rejoin import Verdict, Way
from ha_manager.sql import Late
from ha_manager.worker import Worker
from runtime.errors import DidNotStart, ReplicationError

E5, THEIRS = Epoch(5, "vs-166"), Epoch(6, "vs-28")
UP = Upstream("vs-28", 6, "192.168.120.28")
RUNNING = Observation(state="running", answers=True, in_recovery=True)
STOPPED = Observation(state="stopped")


class Recording:
    """``worker.Postgreses``: notes what is called; ``fail`` names calls that raise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, str | Exception] = {}
        self.way = Way.START
        self.why: str | None = None
        self.kept = "ready"
        self.during: Callable[[], None] = lambda: None
        self.proving: Callable[[], None] = lambda: None
        self.asked = threading.Event()
        self.checkpointed = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.stopped_ahead = threading.Event()
        self.cancelled = False
        self.held = False
        self.timeline = 2
        #: the last copy was one that uses and removes nothing of what is here
        self.whole = False
        #: called once bytes have come
        self.moved: Callable[[], None] = lambda: None
        #: how often connections for a promotion were opened
        self.ready = 0

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if (why := self.fail.get(call.split()[0])) is not None:
            raise why if isinstance(why, Exception) else ReplicationError(why)

    def make_stopped(self, *, immediate: bool, limit: float = 30.0) -> Stopped:
        self._note(f"stop {'immediate' if immediate else 'fast'}")
        return Stopped(True, 42)

    def make_standby(self, follow: Upstream | None, limit: float = 60.0) -> None:
        self._note(f"standby {follow.node if follow else '-'}")

    def make_detached(self, limit: float = 1.0) -> int:
        self._note("detach")
        return 1

    def stand_by(self, limit: float = 1.0) -> None:
        self.ready += 1

    def make_primary(
        self, epoch: int, limit: float = 30.0, *, hold: bool = False, sure: Callable[[], None] = lambda: None
    ) -> int:
        self._note(f"primary {epoch}")
        self.during()
        sure()
        self.held = hold
        return self.timeline

    def settle_primary(self, epoch: int, limit: float = 10.0) -> None:
        self._note(f"settle {epoch}")

    def set_names_relaxed(self, limit: float = 5.0) -> None:
        self._note("relax")

    def set_names_enforced(self, epoch: int, limit: float = 2.0) -> int:
        self._note(f"enforce {epoch}")
        self.proving()
        return 77

    def prepare(self, limit: float = 60.0) -> None:
        self.checkpointed.set()

    def data(self) -> str:
        return self.kept

    def judge(self, active: Identity, limit: float = 30.0) -> Verdict:
        self._note("judge")
        self.judged_by = active
        return Verdict(self.way, "because")

    def rejoin(self, verdict: Verdict, follow: Upstream, active: Identity, progress: Callable[[Progress], bool]) -> str:
        self._note(f"copy {verdict.way}")
        self.whole = verdict.damaged
        self.during()
        if not progress(Progress(1, 2, 3.0)):
            self.cancelled = True
            raise ReplicationError("cancelled")
        self.moved()
        self.kept = "ready"
        return ""

    def stop_ahead(self) -> None:
        self._note("stop ahead")
        self.stopped_ahead.set()

    def mend(self, remedy: Remedy) -> str:
        self._note(f"mend {remedy.name}")
        return "done" if remedy is Remedy.RESET else ""

    def why_not_following(self, follow: Upstream, limit: float = 2.0) -> str | None:
        why = self.why
        self.asked.set()
        assert self.answers.wait(5)
        return why


class Peer:
    known: Identity | None = Identity("1", 1)
    has_tls: bool | None = None
    apart: str = ""

    def versions_apart(self) -> str:
        return self.apart

    def upstream(self, follow: Epoch) -> Upstream:
        return replace(UP, tls=self.has_tls)

    def identity(self, follow: Epoch) -> Identity | None:
        if self.known is not None:
            self.known = replace(self.known, lsn=self.known.lsn + 1)  # it is being written to
        return self.known


class Heard:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.looks: list[Look] = []

    def changed(self) -> None:
        pass

    def proved(self, look: Look) -> None:
        self.looks.append(look)

    def replication(self, event: str, text: str) -> None:
        self.events.append(event)


class Bench:
    def __init__(self) -> None:
        self.db, self.peer, self.heard, self.now = Recording(), Peer(), Heard(), 100.0
        self.worker = Worker(self.db, self.peer, self.heard, lambda: self.now)

    def do(self, want: Want, seen: Observation = RUNNING) -> list[str]:
        """Carry ``want`` out once; what was called."""
        self.worker.look(seen)
        self.worker.want(want)
        self.db.calls.clear()
        self.worker.step(want)
        return list(self.db.calls)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def want(postgres: Postgres, serial: int = 1, **more: object) -> Want:
    return Want(serial, Phase.PASSIVE, E5, postgres, **more)  # type: ignore[arg-type]


def test_stopping_reports_the_shutdown_position(bench: Bench) -> None:
    assert bench.do(want(Postgres.STOPPED, stop=Stop.FAST)) == ["stop fast"]
    assert (bench.worker.carried.shutdown_lsn, bench.worker.carried.serial) == (42, 1)
    assert bench.do(want(Postgres.STOPPED, 2, stop=Stop.IMMEDIATE)) == ["stop immediate"]


def test_what_a_step_proved_is_told_at_once(bench: Bench) -> None:
    """Heartbeat must not wait for the next look; the serial says that it is later than the step."""
    told = []
    following = replace(RUNNING, lsn=7, primary_conninfo="host=x", receiver=Receiver("streaming", "ha_vs-28_5", "x", 7, 0.0))
    for number, postgres in enumerate((Postgres.STOPPED, Postgres.DETACHED, Postgres.PRIMARY), 1):
        bench.do(want(postgres, number), following)
        told.append((bench.heard.looks[-1].serial, observed_state(bench.heard.looks[-1].observation, bench.worker.carried)))
    assert told == [(1, Postgres.STOPPED), (2, Postgres.DETACHED), (3, Postgres.PRIMARY)]
    assert bench.heard.looks[1].observation.lsn == 7 and bench.heard.looks[2].observation.timeline == 2


def test_nothing_is_proved_by_a_step_that_failed(bench: Bench) -> None:
    bench.db.fail["relax"] = "commits still wait"
    bench.do(want(Postgres.PRIMARY))
    assert bench.heard.looks == []


def test_a_standby_is_ready_for_a_promotion(bench: Bench) -> None:
    bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    bench.do(want(Postgres.DETACHED, 2))
    assert bench.db.ready == 2
    bench.do(want(Postgres.PRIMARY, 3))
    assert bench.db.ready == 2


def test_a_checkpoint_for_a_rival_that_comes_back_is_made_once_when_it_lets_go(bench: Bench) -> None:
    bench.do(want(Postgres.PRIMARY))
    bench.db.checkpointed.clear()
    bench.worker.want(want(Postgres.PRIMARY, 2, yielded=THEIRS))
    assert bench.db.checkpointed.wait(5)
    bench.db.checkpointed.clear()
    bench.worker.want(want(Postgres.PRIMARY, 3, yielded=THEIRS))
    bench.worker.want(want(Postgres.PRIMARY, 4))
    assert not bench.db.checkpointed.wait(0.1)


def test_who_handed_over_waits_for_its_successor_and_starts_once(bench: Bench) -> None:
    bench.do(want(Postgres.STOPPED, stop=Stop.FAST))
    waiting = want(Postgres.STANDBY, 2)
    bench.worker.look(STOPPED)
    bench.worker.want(waiting)
    bench.db.calls.clear()
    stepping = threading.Thread(target=bench.worker.step, args=(waiting,))
    stepping.start()
    bench.worker.want(want(Postgres.STANDBY, 3, follow=THEIRS))
    stepping.join(5)
    assert not stepping.is_alive() and bench.db.calls == [] and bench.worker.carried.serial == 1
    assert bench.do(want(Postgres.STANDBY, 3, follow=THEIRS), STOPPED) == ["judge", "standby vs-28"]


def test_who_handed_over_starts_all_the_same_when_nobody_serves(bench: Bench) -> None:
    bench.do(want(Postgres.STOPPED, stop=Stop.FAST))
    bench.now += HANDED_OVER
    assert bench.do(want(Postgres.STANDBY, 2), STOPPED) == ["standby -"]


def test_what_a_promotion_owes_waits_until_heartbeat_has_opened_the_gate(bench: Bench) -> None:
    promoting = replace(want(Postgres.PRIMARY), phase=Phase.PROMOTING)
    assert bench.do(promoting) == ["primary 5", "relax"]
    assert bench.do(replace(promoting, serial=2, phase=Phase.ACTIVE)) == ["primary 5", "settle 5"]


@pytest.mark.parametrize(
    ("newer", "called_off"), [(Postgres.STOPPED, True), (Postgres.STANDBY, True), (Postgres.PRIMARY, False)]
)
def test_a_promotion_that_nobody_wants_any_more_is_called_off(bench: Bench, newer: Postgres, called_off: bool) -> None:
    """Started anew in place, it comes up after its server has begun to let go: the timeline would be the successor's, too."""
    bench.db.during = lambda: bench.worker.want(want(newer, 2))
    done = [call for call in bench.do(want(Postgres.PRIMARY), STOPPED) if call != "stop ahead"]
    assert done == (["primary 5"] if called_off else ["primary 5", "relax", "settle 5"])
    assert bench.worker.carried.trouble == ""


@pytest.mark.parametrize(("stop", "ahead"), [(Stop.IMMEDIATE, True), (Stop.FAST, False)])
def test_an_immediate_stop_waits_for_no_proof(bench: Bench, stop: Stop, ahead: bool) -> None:
    """What it interrupts fails because of it, and is no trouble."""

    def isolated() -> None:
        bench.worker.want(want(Postgres.STOPPED, 3, stop=stop))
        assert bench.db.stopped_ahead.wait(5 if ahead else 0.05) == ahead
        raise ReplicationError("the server closed the connection")

    bench.do(want(Postgres.PRIMARY))
    bench.db.proving = isolated
    bench.do(want(Postgres.PRIMARY, 2, names=Names.ENFORCED))
    assert (bench.worker.carried.serial, bench.worker.carried.trouble) == (1, "")
    bench.db.stopped_ahead.clear()
    stopped = want(Postgres.STOPPED, 3, stop=stop)
    assert bench.do(stopped) == [f"stop {stop}"] and bench.worker.carried.serial == 3
    bench.worker.want(replace(stopped, serial=4))
    assert not bench.db.stopped_ahead.is_set(), "nothing is in its way"


def test_keep_touches_nothing(bench: Bench) -> None:
    assert bench.do(want(Postgres.KEEP)) == [] and bench.worker.carried.serial == 1


def test_promotion_relaxes_then_settles(bench: Bench) -> None:
    assert bench.do(want(Postgres.PRIMARY)) == ["primary 5", "relax", "settle 5"]
    assert not bench.db.held
    assert bench.do(want(Postgres.PRIMARY, 2, names=Names.ENFORCED)) == ["primary 5", "enforce 5"]
    assert bench.worker.carried.proven == 77 and bench.db.held, "what waits goes on waiting if Postgres starts again"
    assert bench.do(want(Postgres.PRIMARY, 3, names=Names.ENFORCED)) == ["primary 5"], "proven once"
    assert bench.do(want(Postgres.PRIMARY, 4)) == ["primary 5", "relax"] and bench.worker.carried.proven == -1


def test_a_failed_proof_is_not_carried_out(bench: Bench) -> None:
    bench.do(want(Postgres.PRIMARY))
    bench.db.fail["enforce"] = "does not stream"
    bench.do(want(Postgres.PRIMARY, 2, names=Names.ENFORCED))
    assert (bench.worker.carried.serial, bench.worker.carried.proven) == (1, -1)
    assert bench.worker.carried.trouble == "does not stream"


def test_a_full_disk_is_told_as_such(bench: Bench) -> None:
    bench.db.fail["standby"] = OSError(28, "No space left on device", "/var/lib/postgresql/15/main")
    bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert bench.worker.carried.trouble == "/var/lib/postgresql/15/main can't be used: No space left on device"


def test_what_a_promotion_owes_and_a_full_disk_refuses_is_done_when_there_is_room(bench: Bench) -> None:
    """The thread goes on, and so does what is wanted."""
    bench.db.fail["settle"] = OSError(28, "No space left on device", "/var/lib/ha_manager/postgres/lineage")
    assert bench.do(want(Postgres.PRIMARY)) == ["primary 5", "relax", "settle 5"]
    assert (bench.worker.carried.serial, bench.worker.carried.trouble) == (1, "")
    del bench.db.fail["settle"]
    assert bench.do(want(Postgres.PRIMARY)) == ["primary 5", "settle 5"]


def test_a_primary_is_stopped_before_it_is_a_standby(bench: Bench) -> None:
    primary = replace(RUNNING, in_recovery=False)
    assert bench.do(want(Postgres.STANDBY, follow=THEIRS), primary) == ["stop immediate", "judge", "standby vs-28"]
    assert bench.worker.carried.follow == THEIRS and bench.heard.events == ["started"]


def test_a_running_stream_stays_when_nobody_is_named_any_more(bench: Bench) -> None:
    """The shutdown checkpoint of an active that stands down still comes over it."""
    assert bench.do(want(Postgres.STANDBY)) == []
    assert bench.do(want(Postgres.STANDBY, 2), STOPPED) == ["standby -"]


def test_diverged_data_is_copied_and_followed(bench: Bench) -> None:
    bench.db.way = Way.DIVERGED
    assert bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED) == ["judge", "copy diverged", "standby vs-28"]
    assert bench.heard.events == ["copying", "initialised", "started"]


@pytest.mark.parametrize(("way", "refused"), [(Way.COPY, True), (Way.FOREIGN, True), (Way.DIVERGED, False), (Way.START, False)])
def test_nothing_is_seeded_from_scratch_across_versions(bench: Bench, way: Way, refused: bool) -> None:
    bench.db.way, bench.peer.apart = way, "the policy servers run different versions: 0.1.0 here, 0.3.0 on vs-28"
    calls = bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert ("judge" in calls, any(call.startswith(("copy", "standby")) for call in calls)) == (True, not refused)
    assert ("0.3.0 on vs-28" in bench.worker.carried.trouble) is refused


def test_a_copy_that_fails_on_its_way_again_and_again_is_begun_ever_more_seldom(bench: Bench) -> None:
    bench.db.way, bench.db.kept = Way.COPY, "none"

    def fail() -> None:
        raise ReplicationError("the link is gone")

    waits = []
    for failing in (False, True, True, True, True):
        bench.db.fail["copy"] = "no room"
        if failing:
            del bench.db.fail["copy"]
            bench.db.moved = fail
        bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
        waits.append(bench.worker._retry_at - bench.now)
    assert waits == pytest.approx([0.1, 1.0, 2.0, 4.0, 8.0])
    bench.db.moved = lambda: None
    assert "standby vs-28" in bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert bench.worker._copies_failed == 0


def test_a_copy_that_is_refused_again_and_again_is_told_once(bench: Bench) -> None:
    """For want of room, say: that is the trouble, for as long as it takes, and no copy is under way."""
    bench.db.way, bench.db.kept = Way.COPY, "none"
    bench.db.fail["copy"] = "no room"
    said: list[str] = []
    bench.heard.changed = lambda: said.append(bench.worker.carried.copying or bench.worker.carried.trouble)  # type: ignore[method-assign]
    for _ in range(3):
        bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert bench.heard.events == ["copying"] and bench.worker.carried.trouble == "no room"
    assert set(said[said.index("no room") :]) == {"no room"} and bench.worker.carried.data == "none"
    del bench.db.fail["copy"]
    bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert bench.heard.events == ["copying", "initialised", "started"] and bench.worker.carried.trouble == ""


def test_without_the_session_data_that_is_there_may_follow_and_none_waits(bench: Bench) -> None:
    bench.peer.known = None
    assert bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED) == ["standby vs-28"]
    bench.db.kept = "none"
    assert bench.do(want(Postgres.STANDBY, 2, follow=THEIRS), STOPPED) == []
    assert "waiting for the session" in bench.worker.carried.trouble and bench.worker.carried.serial == 1


def test_a_copy_that_is_under_way_ends_the_trouble_that_stood_before_it(bench: Bench) -> None:
    bench.peer.known, bench.db.kept = None, "none"
    bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert "can't be asked for a copy" in bench.worker.carried.trouble
    bench.peer.known, bench.db.way = Identity("1", 1), Way.COPY
    said: list[tuple[str, str]] = []
    bench.db.during = lambda: said.append((bench.worker.carried.copying, bench.worker.carried.trouble))
    bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert said and said[0][0] and not said[0][1], said


def test_a_copy_that_is_obsolete_is_cancelled_and_leaves_no_trouble(bench: Bench) -> None:
    bench.db.way = Way.COPY
    bench.db.during = lambda: bench.worker.want(want(Postgres.STOPPED, 2))
    bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert bench.db.cancelled and bench.worker.carried.trouble == "" and bench.worker.carried.copying == ""
    assert bench.worker.carried.serial == 0


def test_a_copy_goes_on_when_only_the_epoch_of_the_same_active_moves(bench: Bench) -> None:
    bench.db.way = Way.COPY
    bench.db.during = lambda: bench.worker.want(want(Postgres.STANDBY, 2, follow=Epoch(7, "vs-28")))
    bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED)
    assert not bench.db.cancelled and bench.worker.carried.serial == 0, "the newer want is not carried out yet"


def test_a_standby_that_does_not_stream_is_asked_why_and_copied_if_nothing_else_helps(bench: Bench) -> None:
    bench.do(want(Postgres.STANDBY, follow=THEIRS))
    bench.now += 3
    assert bench.do(want(Postgres.STANDBY, 2, follow=THEIRS)) == ["standby vs-28"]
    bench.worker.settle()
    assert bench.do(want(Postgres.STANDBY, 3, follow=THEIRS)) == ["standby vs-28"], "it may still come"
    bench.now += 3
    bench.db.why = "log removed"
    bench.do(want(Postgres.STANDBY, 4, follow=THEIRS))
    bench.worker.settle()
    assert bench.do(want(Postgres.STANDBY, 5, follow=THEIRS)) == ["stop fast", "judge", "copy copy", "standby vs-28"]


def test_a_standby_that_streams_is_never_copied(bench: Bench) -> None:
    """Neither asked why, nor copied because of what was found out while it did not stream yet."""
    streaming = replace(RUNNING, receiver=Receiver("streaming", "ha_vs-166_6", "192.168.120.28", 100, 0.0))
    bench.db.why = "log removed"
    bench.do(want(Postgres.STANDBY, follow=THEIRS))
    bench.now += 3
    assert bench.do(want(Postgres.STANDBY, 2, follow=THEIRS), streaming) == ["standby vs-28"]
    bench.worker.settle()
    assert not bench.db.asked.is_set()
    bench.now += 3
    bench.do(want(Postgres.STANDBY, 3, follow=THEIRS))
    bench.worker.settle()
    assert bench.db.asked.is_set()
    assert bench.do(want(Postgres.STANDBY, 4, follow=THEIRS), streaming) == ["standby vs-28"], "it came while it was asked"
    assert bench.do(want(Postgres.STANDBY, 5, follow=THEIRS)) == ["standby vs-28"], "an old answer"


def test_a_question_that_a_dead_active_does_not_answer_holds_nothing_up(bench: Bench) -> None:
    bench.do(want(Postgres.STANDBY, follow=THEIRS))
    bench.now += 3
    bench.db.answers.clear()
    bench.db.why = "log removed"
    bench.do(want(Postgres.STANDBY, 2, follow=THEIRS))
    assert bench.db.asked.wait(5)
    assert bench.do(want(Postgres.DETACHED, 3)) == ["detach"]
    bench.db.answers.set()
    bench.worker.settle()
    assert bench.do(want(Postgres.STANDBY, 4, follow=Epoch(9, "vs-28"))) == ["standby vs-28"], "an answer about another reign"


@pytest.mark.parametrize("role,last", [(Postgres.STANDBY, "standby vs-28"), (Postgres.PRIMARY, "primary 5")])
def test_a_postgres_that_answers_nobody_is_ended_and_started_again(bench: Bench, role: Postgres, last: str) -> None:
    follow = THEIRS if role is Postgres.STANDBY else Epoch()
    bench.do(want(role, follow=follow))
    mute = replace(RUNNING, answers=False, because="timed out")
    assert "stop immediate" not in bench.do(want(role, 2, follow=follow), mute)
    bench.now += 9
    assert "stop immediate" not in bench.do(want(role, 3, follow=follow), mute)
    bench.now += 2
    calls = bench.do(want(role, 4, follow=follow), mute)
    assert calls.index("stop immediate") < calls.index(last)
    assert "stop immediate" not in bench.do(want(role, 5, follow=follow), mute), "one more chance"


def test_a_postgres_that_keeps_dying_is_given_up_where_the_passive_may_be_fit(bench: Bench) -> None:
    reign = {"names": Names.ENFORCED}
    bench.do(want(Postgres.PRIMARY, **reign))
    for number in range(3):
        assert "primary 5" in bench.do(want(Postgres.PRIMARY, number + 2, **reign), STOPPED)
    for number in range(9, 12):
        assert bench.do(want(Postgres.PRIMARY, number, **reign), STOPPED) == []
        assert "has died 4 times" in bench.worker.carried.trouble, "each death counts once"
        bench.now += 10
    bench.now += 50
    assert "primary 5" in bench.do(want(Postgres.PRIMARY, 13, **reign), STOPPED)


def test_a_postgres_that_keeps_dying_is_started_again_where_nobody_else_could_serve(bench: Bench) -> None:
    bench.do(want(Postgres.PRIMARY))
    for number in range(3):
        bench.do(want(Postgres.PRIMARY, number + 2), STOPPED)
    assert bench.do(want(Postgres.PRIMARY, 9), STOPPED) == [], "not as fast as it dies"
    bench.now += 6
    assert "primary 5" in bench.do(want(Postgres.PRIMARY, 10), STOPPED)


def test_a_postgres_that_does_not_come_up_says_why_each_time(bench: Bench) -> None:
    bench.do(want(Postgres.PRIMARY, names=Names.ENFORCED))
    bench.db.fail["primary"] = DidNotStart("Postgres did not come up: FATAL: no pg_control")
    for number in range(2, 9):
        bench.do(want(Postgres.PRIMARY, number, names=Names.ENFORCED), STOPPED)
        assert "no pg_control" in bench.worker.carried.trouble and bench.worker.carried.data == "failed"


def test_what_ails_is_mended_before_the_want_is_carried_out_again(bench: Bench) -> None:
    reign = want(Postgres.PRIMARY, names=Names.ENFORCED)
    bench.do(reign)
    bench.worker.look(replace(RUNNING, in_recovery=False), (Remedy.RESET, Remedy.PROVE, Remedy.SETTLE))
    bench.db.calls.clear()
    bench.worker.step(reign)
    assert bench.db.calls == ["mend RESET", "mend PROVE", "primary 5", "enforce 5", "settle 5"]
    assert bench.heard.events == ["mended"]
    bench.db.calls.clear()
    bench.worker.step(reign)
    assert bench.db.calls == ["primary 5"], "once"


def test_nothing_that_is_wanted_waits_for_a_remedy(bench: Bench) -> None:
    reign = want(Postgres.PRIMARY)
    bench.do(reign)
    bench.db.fail["mend"] = "no connection"
    bench.worker.look(replace(RUNNING, in_recovery=False), (Remedy.RESET, Remedy.WAKE))
    bench.db.calls.clear()
    bench.worker.step(reign)
    assert bench.db.calls[:3] == ["mend RESET", "mend WAKE", "primary 5"] and bench.worker.carried.trouble == ""
    for urgent, first in ((Postgres.STOPPED, "stop immediate"), (Postgres.DETACHED, "detach")):
        bench.worker.want(want(urgent, 8))
        bench.worker.look(RUNNING, (Remedy.RESTART,))
        bench.db.calls.clear()
        bench.worker.step(want(urgent, 8))
        assert bench.db.calls[0] == first


def test_what_ailed_a_standby_is_not_mended_when_it_is_to_be_the_primary(bench: Bench) -> None:
    bench.do(want(Postgres.STANDBY, follow=THEIRS))
    bench.worker.want(want(Postgres.PRIMARY, 2))
    bench.worker.look(RUNNING, (Remedy.RESTART,))
    bench.db.calls.clear()
    bench.worker.step(want(Postgres.PRIMARY, 2))
    assert bench.db.calls[0] == "primary 5", "a look that had begun before"


def test_going_solo_needs_no_checkpoint(bench: Bench) -> None:
    """It would recycle the log from before the fork, if the peer takes over: what a rewind reads."""
    bench.do(want(Postgres.PRIMARY))
    end = time.monotonic() + 5
    while bench.worker.carried.checkpointed != 5 and time.monotonic() < end:
        time.sleep(0.01)
    bench.db.checkpointed.clear()
    bench.do(replace(want(Postgres.PRIMARY, 2), epoch=Epoch(6, "vs-166")))
    assert bench.db.calls[-1] == "settle 6" and bench.worker.carried.checkpointed == 6
    assert not bench.db.checkpointed.is_set()


def test_log_that_is_given_up_is_removed_before_a_new_slot_keeps_any(bench: Bench) -> None:
    reign = want(Postgres.PRIMARY)
    bench.do(reign)
    assert bench.db.checkpointed.wait(5)
    bench.db.checkpointed.clear()
    bench.worker.look(replace(RUNNING, in_recovery=False), (Remedy.RELEASE_LOG,))
    bench.db.calls.clear()
    bench.worker.step(reign)
    assert "mend RELEASE_LOG" in bench.db.calls and "settle 5" not in bench.db.calls
    assert bench.db.checkpointed.wait(5)


def test_a_foreign_postgres_is_ended_and_ours_started(bench: Bench) -> None:
    bench.do(want(Postgres.PRIMARY))
    bench.worker.look(STOPPED, (Remedy.END_FOREIGN,))
    bench.db.calls.clear()
    bench.worker.step(want(Postgres.PRIMARY))
    assert bench.db.calls[:2] == ["mend END_FOREIGN", "primary 5"]


def test_a_standby_that_does_not_come_up_for_its_data_is_copied_once(bench: Bench) -> None:
    bench.db.fail["standby"] = DidNotStart("Postgres did not come up", "PANIC: could not locate a valid checkpoint record")
    for number in range(ATTEMPTS - 1):
        assert "copy copy" not in bench.do(want(Postgres.STANDBY, number + 1, follow=THEIRS), STOPPED)
        assert "did not come up" in bench.worker.carried.trouble
    calls = bench.do(want(Postgres.STANDBY, 7, follow=THEIRS), STOPPED)
    assert calls == ["judge", "standby vs-28", "stop immediate", "judge", "copy copy", "standby vs-28"]
    for number in range(ATTEMPTS + 1):
        assert "copy copy" not in bench.do(want(Postgres.STANDBY, number + 8, follow=THEIRS), STOPPED), "it did not help"


def test_a_copy_that_has_served_since_is_followed_by_another_when_that_one_is_damaged(bench: Bench) -> None:
    damage = DidNotStart("Postgres did not come up", "FATAL: data directory has wrong ownership")
    for serial in (1, 20):
        bench.db.fail["standby"] = damage
        for number in range(ATTEMPTS - 1):
            bench.do(want(Postgres.STANDBY, serial + number, follow=THEIRS), STOPPED)
        assert "copy copy" in bench.do(want(Postgres.STANDBY, serial + ATTEMPTS, follow=THEIRS), STOPPED)
        bench.db.fail.clear()
        bench.do(want(Postgres.PRIMARY, serial + ATTEMPTS + 1))


def test_a_standby_that_does_not_come_up_for_another_reason_is_not_copied(bench: Bench) -> None:
    bench.db.fail["standby"] = DidNotStart("Postgres did not come up", "FATAL: configuration file contains errors")
    for number in range(ATTEMPTS + 2):
        assert "copy copy" not in bench.do(want(Postgres.STANDBY, number + 1, follow=THEIRS), STOPPED)


def test_a_standby_that_waits_for_log_that_is_gone_before_it_takes_connections_is_copied(bench: Bench) -> None:
    bench.db.fail["standby"] = Late("Postgres takes no connections")
    assert bench.do(want(Postgres.STANDBY, follow=THEIRS), STOPPED) == ["judge", "standby vs-28"]
    bench.db.why = "requested WAL segment has already been removed"
    calls = bench.do(want(Postgres.STANDBY, 2, follow=THEIRS), replace(RUNNING, state="starting"))
    assert calls == ["judge", "standby vs-28", "stop fast", "judge", "copy copy", "standby vs-28"]


@pytest.mark.parametrize(("way", "copied"), [(Way.START, Way.COPY), (Way.COPY, Way.COPY), (Way.DIVERGED, Way.DIVERGED)])
def test_a_copy_that_an_operator_asks_for_is_made_once_whatever_is_here(bench: Bench, way: Way, copied: Way) -> None:
    following = want(Postgres.STANDBY, follow=THEIRS)
    bench.do(following)
    bench.db.way = way
    bench.db.calls.clear()
    bench.worker.reseed("asked for by ha reseed")
    assert "asked for by ha reseed" in bench.worker.carried.copying, "seen at once"
    asked = bench.peer.known.lsn if bench.peer.known else 0
    bench.worker.step(following)
    assert bench.db.calls == ["stop fast", "judge", f"copy {copied}", "standby vs-28"]
    assert bench.db.judged_by.lsn == asked + 2, "by what the active has when nothing comes any more"
    assert bench.db.whole is (way is Way.DIVERGED), "never rewound, never removed for room"
    assert bench.worker.carried.copying == ""
    bench.db.way = Way.START
    bench.db.calls.clear()
    bench.worker.step(following)
    assert bench.db.calls == ["standby vs-28"], "once"


def test_the_active_goes_on_alone_before_its_standby_is_stopped_for_a_copy(bench: Bench) -> None:
    """Commits wait for a standby that streams: half a second, until the active asks for its release by itself."""
    streaming = replace(RUNNING, receiver=Receiver("streaming", f"ha_vs-166_{THEIRS.number}", "x", 7, 0.0))
    following, alone = (want(Postgres.STANDBY, n, follow=Epoch(THEIRS.number + n, THEIRS.node)) for n in (0, 1))
    bench.do(following, streaming)
    bench.worker.reseed("asked for")
    bench.db.calls.clear()
    heard = threading.Timer(0.05, bench.worker.want, [alone])
    heard.start()
    bench.worker.step(following)
    assert bench.db.calls == [] and bench.worker.carried.data == "copying", "which is what heartbeat is told"
    bench.worker.step(alone)
    assert bench.db.calls == ["stop fast", "judge", "copy copy", "standby vs-28"] and not heard.is_alive()
    # asked for again: again it goes on alone first, also within the seconds in which one copy asks once
    bench.do(alone, replace(streaming, receiver=Receiver("streaming", f"ha_vs-166_{THEIRS.number + 1}", "x", 7, 0.0)))
    bench.worker.reseed("asked for")
    bench.db.calls.clear()
    heard = threading.Timer(0.05, bench.worker.want, [want(Postgres.STANDBY, 2, follow=Epoch(THEIRS.number + 2, THEIRS.node))])
    heard.start()
    bench.worker.step(alone)
    assert bench.db.calls == [] and bench.worker.carried.data == "copying"
    heard.join()


def test_an_operators_copy_waits_for_what_is_under_way_and_ends_with_the_role(bench: Bench) -> None:
    following = want(Postgres.STANDBY, follow=THEIRS)
    bench.do(following)
    bench.worker.reseed("asked for")
    bench.peer.known = None
    bench.worker.step(following)
    assert "nothing was copied" in bench.worker.carried.trouble and "judge" not in bench.db.calls
    bench.peer.known = Identity("1", 1)
    bench.worker.reseed("asked for")
    assert bench.worker.carried.trouble == ""
    bench.do(want(Postgres.DETACHED, 2))
    assert bench.worker.carried.copying == ""
    assert bench.do(want(Postgres.STANDBY, 3, follow=THEIRS)) == ["standby vs-28"]


def test_a_promotion_in_the_same_epoch_owes_what_every_promotion_owes(bench: Bench) -> None:
    """A primary that died was promoted again: the peer's slot and a checkpoint on the new timeline."""
    reign = want(Postgres.PRIMARY, names=Names.ENFORCED)
    bench.do(reign)
    assert bench.db.checkpointed.wait(5)
    bench.db.checkpointed.clear()
    assert bench.do(reign) == ["primary 5"]
    bench.db.timeline = 3
    assert bench.do(reign, replace(RUNNING, in_recovery=True)) == ["primary 5", "settle 5"]
    assert bench.db.checkpointed.wait(5)


def test_a_want_that_comes_before_the_next_look_is_not_carried_out_on_what_was_seen_before(bench: Bench) -> None:
    bench.do(want(Postgres.PRIMARY))
    for serial, names in enumerate((Names.RELAXED, Names.ENFORCED, Names.RELAXED, Names.ENFORCED, Names.RELAXED), 2):
        if serial == 2:
            bench.worker.look(STOPPED)
        bench.worker.step(want(Postgres.PRIMARY, serial, names=names))
    assert bench.worker.carried.trouble == "", "it died once, not five times"
    bench.do(want(Postgres.STANDBY, 9, follow=THEIRS), STOPPED)
    bench.db.calls.clear()
    bench.worker.step(want(Postgres.STANDBY, 10, follow=Epoch(7, "vs-28")))
    assert bench.db.calls == ["standby vs-28"], "it runs: nothing is to be judged"


def test_a_new_link_voids_the_serial_and_keeps_what_is_wanted(bench: Bench) -> None:
    first = want(Postgres.STOPPED, 9)
    bench.do(first)
    bench.worker.new_link()
    assert (bench.worker.carried.serial, bench.worker.carried.link) == (0, 1)
    bench.worker.step(first)
    assert bench.worker.carried.serial == 0, "a want of the old connection is never reported on the new one"


@pytest.mark.parametrize("tls", [True, False, None])
def test_a_standby_goes_over_to_tls_when_its_active_has_it_by_now(bench: Bench, tls: bool | None) -> None:
    wanted = want(Postgres.STANDBY, follow=THEIRS)
    streaming = replace(RUNNING, receiver=Receiver("streaming", "ha_vs-166_6", "192.168.120.28", 1, 0.0))
    bench.do(wanted, streaming)
    bench.now += 60
    bench.peer.has_tls = tls
    for conninfo, due in (("sslmode=disable", tls is True), ("sslmode=require", False)):
        bench.worker._again = False
        bench.worker.look(replace(streaming, primary_conninfo=conninfo))
        assert bench.worker._again is due
