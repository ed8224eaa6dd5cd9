"""Numbers, repetition and acknowledgement next to Linux-HA: tables."""

from __future__ import annotations

from math import inf

import pytest

from heartbeat.linuxha_link import ASK_AFTER, ASK_AGAIN, GIVE_UP, HISTORY, Inbox, Outbox


def said(seq: int, kind: str = "resource", generation: int = 5) -> dict[str, str]:
    return {"t": kind, "src": "b", "seq": f"{seq:x}", "hg": f"{generation:x}"}


def taken(inbox: Inbox, *seqs: int, now: float = 0.0) -> list[int]:
    """The numbers that are handed on, in their order."""
    return [int(str(frame["seq"]), 16) for seq in seqs for frame in inbox.take(said(seq), now)[1]]


def test_messages_are_numbered_from_one_and_control_messages_are_not() -> None:
    outbox = Outbox(0x6B00)
    assert outbox.stamp({"t": "status"}) == {"t": "status", "seq": "1", "hg": "6b00"}
    assert outbox.stamp({"t": "NS_ackmsg"}) == {"t": "NS_ackmsg", "hg": "6b00"}
    assert outbox.stamp({"t": "resource"})["seq"] == "2"


def test_the_latest_500_can_be_said_again() -> None:
    outbox = Outbox(1)
    for _ in range(HISTORY + 10):
        outbox.stamp({"t": "status"})
    assert outbox.again(1, 10) == []
    assert [frame["seq"] for frame in outbox.again(HISTORY + 9, HISTORY + 99)] == [f"{HISTORY + 9:x}", f"{HISTORY + 10:x}"]


def test_whoever_comes_late_begins_in_the_middle() -> None:
    inbox = Inbox()
    assert taken(inbox, 70, 71) == [70, 71]
    assert inbox.ask(99.0) == []


def test_what_two_links_deliver_is_handed_on_once() -> None:
    assert taken(Inbox(), 1, 1, 2, 1, 2, 3) == [1, 2, 3]


def test_what_overtook_waits_for_what_was_lost() -> None:
    inbox = Inbox()
    assert taken(inbox, 1, 4, 3) == [1]
    assert taken(inbox, 2) == [2, 3, 4]
    assert inbox.due == inf


def test_a_status_does_not_wait() -> None:
    inbox = Inbox()
    taken(inbox, 1)
    assert [frame["t"] for frame in inbox.take(said(3, "status"), 0.0)[1]] == ["status"]
    assert taken(inbox, 2) == [2]  # and isn't handed on again
    assert inbox.complete == 3


def test_a_status_is_handed_on_once_too() -> None:
    inbox = Inbox()
    handed_on = [len(inbox.take(said(seq, "status"), 0.0)[1]) for seq in (1, 1, 3, 3, 2, 1)]
    assert handed_on == [1, 0, 1, 0, 1, 0]
    assert inbox._early == {}


def test_what_is_missing_is_asked_for_in_runs_and_again_until_it_is_given_up() -> None:
    inbox = Inbox()
    taken(inbox, 1, 5, 7)
    assert inbox.ask(0.0) == [] and inbox.due == ASK_AFTER
    assert inbox.ask(ASK_AFTER) == [(2, 4), (6, 6)]
    assert inbox.ask(ASK_AFTER) == []
    assert inbox.ask(ASK_AFTER + ASK_AGAIN) == [(2, 4), (6, 6)]
    assert inbox.give_up(GIVE_UP - 0.01) == []
    assert [frame["seq"] for frame in inbox.give_up(GIVE_UP)] == ["5", "7"]
    assert taken(inbox, 2, 8) == [8]


def test_a_gap_wider_than_the_peer_s_memory_is_not_asked_for() -> None:
    inbox = Inbox()
    assert taken(inbox, 1, HISTORY + 2) == [1, HISTORY + 2]
    assert inbox.ask(99.0) == []


def test_memory_is_bounded_whatever_an_authentic_peer_sends() -> None:
    inbox = Inbox()
    for seq in range(1, 50_000, 2):
        inbox.take(said(seq), 0.0)
    assert len(inbox._missing) <= HISTORY and len(inbox._early) <= HISTORY + 1


def test_a_new_run_begins_anew_and_an_old_one_is_a_replay() -> None:
    inbox = Inbox()
    assert inbox.take(said(9), 0.0)[0] is True
    assert inbox.take(said(1, generation=6), 0.0) == (True, [said(1, generation=6)])
    assert inbox.take(said(10), 0.0) == (False, [])
    assert inbox.replays == 1 and inbox.complete == 1


@pytest.mark.parametrize("fields", [{"t": "resource"}, {"t": "resource", "hg": "x"}, {"t": "resource", "hg": b"5"}, {}])
def test_no_generation_is_no_message(fields: dict[str, str | bytes]) -> None:
    assert Inbox().take(fields, 0.0) == (False, [])


def test_a_message_without_a_number_is_dropped_and_a_control_message_has_none() -> None:
    inbox = Inbox()
    assert inbox.take({"t": "resource", "hg": "5"}, 0.0) == (True, [])
    assert inbox.take({"t": "NS_ackmsg", "hg": "5"}, 0.0) == (False, [{"t": "NS_ackmsg", "hg": "5"}])


def test_every_tenth_is_acknowledged_once_it_and_all_before_it_are_there() -> None:
    inbox = Inbox()
    acknowledged = []
    for seq in (*range(1, 10), 11, 12, 10, *range(13, 22)):
        taken(inbox, seq)
        acknowledged.append(inbox.acknowledge())
    assert [number for number in acknowledged if number] == [10, 20]
    assert acknowledged[11] == 10  # with the tenth itself, not when the eleventh overtook it
