"""Two real heartbeats, kernel leases, ARP and ICMP included; Postgres is scripted. Figures are printed with ``pytest -s``."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.proctree import descendants
from runtime.timing import PROFILES
from tests.lab.two_heartbeats import VIP, Node, Pair, sh, two_heartbeats, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces")]
TIMING = PROFILES["recommended"]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with two_heartbeats() as pair:
        yield pair


def tell(what: str, seconds: float) -> None:
    print(f"{what}: {seconds * 1000:.0f} ms")


def writer_of(node: Node) -> int:
    """The process that does its fsyncs."""
    assert node.process is not None
    below = [each.pid for each in descendants(node.process.pid)]
    return next(pid for pid in below if Path(f"/proc/{pid}/comm").read_text().strip() == "heartbeat-write")


def test_both_started_together_settle(pair: Pair) -> None:
    began = time.monotonic()
    active, passive = pair.settle()
    tell("both started -> one active, the other fit", time.monotonic() - began)
    assert active.name == "vs-166" and active.has_vip() and not passive.has_vip()
    assert active.ask("status")["epoch"] == [1, "vs-166"]


def test_a_killed_active_is_replaced(pair: Pair) -> None:
    """Also by one whose writer was killed before: the epoch is on the disk, and known to be."""
    active, passive = pair.settle()
    os.kill(writer_of(passive), signal.SIGKILL)
    active.kill()
    tell("kill -9 of the active -> VIP on the peer", wait_for("VIP on the peer", passive.has_vip))
    wait_for("active", lambda: passive.is_(phase="active", epoch=[2, passive.name]))
    outage = pair.outage()
    tell("outage of the VIP", outage)
    assert outage < TIMING.deadtime + 0.3
    assert "alarm two-actives" not in passive.log()
    # The dead one comes back as the passive, and its old address is gone.
    active.start()
    wait_for("passive and in sync again", lambda: active.is_(phase="passive", fit=True))
    assert not active.has_vip() and passive.is_(phase="active")


def test_a_killed_heartbeat_that_is_back_within_its_lease_resumes(pair: Pair) -> None:
    active, passive = pair.settle()
    epoch = active.ask("status")["epoch"]
    began = time.monotonic()
    active.kill()
    active.start()
    wait_for("active again", lambda: active.is_(phase="active"))
    tell("kill -9 and restart of the active's heartbeat -> active again", time.monotonic() - began)
    assert active.is_(epoch=epoch) and passive.is_(phase="passive")


def test_a_planned_failover_loses_next_to_nothing(pair: Pair) -> None:
    active, passive = pair.settle()
    began = time.monotonic()
    assert "handing over" in active.ask("standby", by="test")["text"]
    wait_for("moved", lambda: passive.is_(phase="active"))
    tell("standby -> the peer is active", time.monotonic() - began)
    wait_for("fit", lambda: active.is_(phase="passive", fit=True))
    outage = pair.outage()
    tell("outage of the VIP", outage)
    assert outage < 3 and active.ask("status")["epoch"] == [2, passive.name]


def test_a_clean_stop_hands_over_and_ends(pair: Pair) -> None:
    active, passive = pair.settle()
    assert active.process is not None
    active.process.terminate()
    wait_for("moved", lambda: passive.is_(phase="active"))
    assert active.process.wait(5) == 0
    assert not active.has_vip() and not list((active.folder / "run").iterdir())
    assert pair.outage() < 3


def test_a_clean_stop_of_the_passive_releases_the_active(pair: Pair) -> None:
    active, passive = pair.settle()
    assert passive.process is not None
    passive.process.terminate()
    tell("SIGTERM of the passive -> the active is solo", wait_for("solo", lambda: active.is_(solo=True), 2.0))
    assert passive.process.wait(5) == 0


def test_a_thawed_active_has_lost_the_role_and_the_address(pair: Pair) -> None:
    active, passive = pair.settle()
    assert active.process is not None
    active.process.send_signal(signal.SIGSTOP)
    tell("SIGSTOP of the active -> the peer is active", wait_for("moved", lambda: passive.is_(phase="active")))
    time.sleep(1.5)
    assert not active.has_vip(), "the address outlived its lease"
    active.process.send_signal(signal.SIGCONT)
    wait_for("passive and fit", lambda: active.is_(phase="passive", fit=True))
    assert not active.has_vip() and passive.is_(phase="active", epoch=[2, passive.name])


def test_a_pause_shorter_than_the_lease_changes_nothing(pair: Pair) -> None:
    active, passive = pair.settle()
    for node in (active, passive):
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
        time.sleep(TIMING.lease - 0.2)
        node.process.send_signal(signal.SIGCONT)
        time.sleep(1.0)
    assert active.is_(phase="active", epoch=[1, active.name], solo=False) and passive.is_(phase="passive", fit=True)


def test_a_hung_ha_manager_of_the_active_hands_over(pair: Pair) -> None:
    active, passive = pair.settle()
    active.manager.silent = True
    tell("ha_manager of the active hangs -> the peer is active", wait_for("moved", lambda: passive.is_(phase="active")))
    assert active.is_(role="passive") and not active.has_vip()


def blocked(node: Node) -> bool:
    """Clients are kept from Postgres's port on this server."""
    return "elements" in sh(f"ip netns exec {node.ns} nft list set inet ha_manager blocked")


def test_a_heartbeat_killed_while_it_ends_postgres_ends_it_when_it_is_back(pair: Pair) -> None:
    """The note that says what there is to end is a pipe: ending it takes as long as this test wants."""
    active, passive = pair.settle()
    note = active.folder / "manager" / "keeper.json"
    note.parent.mkdir()
    os.mkfifo(note)
    active.manager.silent = True
    wait_for("the other one is active", lambda: passive.is_(phase="active"))
    assert blocked(active)
    active.kill()
    active.start()
    wait_for("heartbeat is back", lambda: active.is_(role="passive"))
    assert blocked(active), "Postgres may still run, as long as nobody has ended it"
    active.manager.silent = False
    wait_for("the pipe is read", lambda: fed(note, "{}"))
    wait_for("clients may come", lambda: not blocked(active))
    wait_for("fit", lambda: active.is_(phase="passive", fit=True))
    assert passive.is_(phase="active")


def fed(pipe: Path, text: str) -> bool:
    """Somebody waits for what the pipe says, and is told."""
    try:
        handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    os.write(handle, text.encode())
    os.close(handle)
    pipe.unlink()
    return True


@pytest.mark.parametrize("link", [0, 1])
def test_one_link_is_enough(pair: Pair, link: int) -> None:
    """The interconnect alone is no reason for anything; without the LAN the passive confirms its ping and takes over."""
    active, passive = pair.settle()
    pair.cut(active.name, link)
    if link == 0:
        wait_for("moved", lambda: passive.is_(phase="active"))
        assert not active.has_vip()
        assert pair.outage() < TIMING.ping_dead + 3
    else:
        time.sleep(1.5)
        assert active.is_(phase="active", epoch=[1, active.name], solo=False)
        wait_for("the dead link is named", lambda: "link-eth1" in active.ask("status")["alarms"])
        assert pair.outage() < 0.2
    pair.cut(active.name, link, up=True)
    wait_for("both links up again", lambda: set(active.ask("status")["links"].values()) == {"up"})


def test_new_keys_without_a_restart(pair: Pair) -> None:
    """One server at a time: first both accept the new key, then each sends with it."""
    nodes = pair.settle()
    old, new = "1 sha256 a-secret-of-this-test\n", "2 sha256 new\n"
    for text in (f"auth 1\n{old}{new}", f"auth 2\n{old}{new}", f"auth 2\n{new}"):
        for node in nodes:
            keys = node.folder / "etc" / "authkeys"
            keys.write_text(text)
            assert node.process is not None
            node.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
    assert nodes[0].is_(phase="active", epoch=[1, nodes[0].name], solo=False) and nodes[1].is_(fit=True)
    assert nodes[0].ask("status")["refused"]["eth0"]["unauthentic"] == 0
    # A broken file is refused, and the old keys stay.
    (nodes[0].folder / "etc" / "authkeys").chmod(0o644)
    nodes[0].process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    wait_for("refused in words", lambda: "chmod 600" in nodes[0].log())
    assert nodes[1].is_(fit=True)


def test_a_wrong_configuration_changes_nothing(pair: Pair) -> None:
    node = pair.nodes["vs-166"]
    (node.folder / "etc" / "authkeys").chmod(0o644)
    node.start()
    assert node.process is not None and node.process.wait(5) == 6
    assert "authkeys: has mode 0644" in node.log() and "chmod 600" in node.log()
    assert not (node.folder / "state").exists()


def test_a_damaged_record_refuses_the_start(pair: Pair) -> None:
    node = pair.nodes["vs-166"]
    (node.folder / "state").mkdir()
    (node.folder / "state" / "record").write_text("{")
    node.start()
    assert node.process is not None and node.process.wait(5) == 6
    assert "record" in node.log() and (node.folder / "state" / "record").read_text() == "{"


def test_the_socket_talks_to_root_and_survives_rubbish(pair: Pair) -> None:
    active, _ = pair.settle()
    said = ""
    for lines in (
        b"rubbish\n",
        b"[]\n",
        b'{}\n{"do":"leave","kind":"now"}\n{"do":"facts","facts":1}\n{"do":"standby","force":1}\n',
    ):
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(active.control))
            rude.sendall(lines)
            time.sleep(0.1)
            said += rude.recv(65536).decode()
    assert said.count('"ok":false') == 5, said
    assert active.is_(phase="active") and active.ask("explain")["lines"] and active.ask("history", last=2)["changes"]
    assert active.ask("parameters")["parameters"]["ping"] == "192.168.120.1"
    assert active.ask("status")["vip"]["address"] == VIP
