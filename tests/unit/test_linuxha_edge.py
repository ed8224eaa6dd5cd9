"""Next to Linux-HA: what ha.cf may say, what goes over the wire, which generation is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from heartbeat.config import Config, load
from heartbeat.frames import Key, Keyring, Method, decode, encode
from heartbeat.linuxha_daemon import Generation
from heartbeat.linuxha_radio import LinuxHaRadio
from heartbeat.store import Store
from runtime.address import Assigned
from runtime.errors import ConfigError
from runtime.timing import Timing
from tests.unit.test_radio import Queue

ADDRESSES = (Assigned("eth0", "192.168.120.166", 24), Assigned("eth1", "10.0.0.166", 24))
#: as Debian's package has it in its sample, and many sites for years
HA_CF = """\
logfacility local0
keepalive 2
deadtime 30
warntime 10
initdead 120
udpport 694
ucast eth0 192.168.120.28
ucast eth0 192.168.120.166
auto_failback off
deadping 30
ping 192.168.120.1
respawn hacluster /usr/lib/heartbeat/ipfail
node vs-166
node vs-28
compatibility linux-ha
"""


def loaded(folder: Path, cf: str = HA_CF, keys: str = "auth 1\n1 sha1 secret\n") -> Config:
    (folder / "ha.cf").write_text(cf)
    (folder / "haresources").write_text("vs-166 192.168.120.187/24/eth0\n")
    (folder / "authkeys").write_text(keys)
    (folder / "authkeys").chmod(0o600)
    return load(str(folder), "vs-166", ADDRESSES)


def test_a_file_that_linux_ha_took_is_taken_with_its_times(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    t = config.timing
    assert config.linux_ha
    assert (t.keepalive, t.warntime, t.deadtime, t.initdead, t.ping_dead) == (2, 10, 30, 120, 30)
    assert t.keepalive < t.lease < t.deadtime and t.ping_period <= t.keepalive


@pytest.mark.parametrize(("deadtime", "initdead"), [(3, 12), (8, 16), (30, 30)])
def test_initdead_that_isn_t_named_is_as_linux_ha_s(tmp_path: Path, deadtime: int, initdead: int) -> None:
    cf = (
        HA_CF.replace("initdead 120\n", "").replace("deadtime 30", f"deadtime {deadtime}").replace("keepalive 2", "keepalive 1")
    )
    assert loaded(tmp_path, cf).timing.initdead == initdead


@pytest.mark.parametrize("word", ["linux-ha", "on"])
def test_both_words_mean_it(tmp_path: Path, word: str) -> None:
    assert loaded(tmp_path, HA_CF.replace("compatibility linux-ha", f"compatibility {word}")).linux_ha


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("solo silence", "ha.cf:16: solo promises what can't be kept next to Linux-HA"),
        ("synchronous on", "ha.cf:16: synchronous promises"),
        ("profile aggressive", "ha.cf:16: profile promises"),
        ("boot_alone wait", "ha.cf:16: boot_alone promises"),
        ("auto_failback on", "ha.cf:16: auto_failback on: next to Linux-HA both nodes must agree"),
        ("auto_failback legacy", "ha.cf:16: auto_failback legacy: next to"),
        ("keepalive 15", "deadtime > 2 × keepalive"),
        ("initdead 20", "initdead ≥ deadtime"),
        ("lease 31", "lease < deadtime"),
    ],
)
def test_what_can_t_be_kept_next_to_linux_ha_is_refused(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, HA_CF + more + "\n")
    assert said in str(refused.value) and "—" not in str(refused.value)
    assert refused.value.remedy


def test_without_the_word_the_rules_of_the_pair_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the times don't fit together"):
        loaded(tmp_path, HA_CF.replace("compatibility linux-ha\n", ""))


@pytest.mark.parametrize("key", ["sha1 x", "md5 x", "crc"])
def test_linux_ha_s_methods_are_used(tmp_path: Path, key: str) -> None:
    assert loaded(tmp_path, keys=f"auth 1\n1 {key}\n").keyring.sending.method == key.split()[0]


def test_a_key_that_the_peer_can_t_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Linux-HA doesn't know: sha256"):
        loaded(tmp_path, keys="auth 1\n1 sha256 x\n")
    assert loaded(tmp_path, keys="auth 2\n1 sha256 x\n2 sha1 y\n").keyring.sending.number == 2


# --- frames ---------------------------------------------------------------------------------------------------------------

RING = Keyring.of(1, [Key(1, Method.SHA1, b"right")])


def radio(wire: Queue, node: str = "vs-166", uuid: Path = Path("/nonexistent")) -> LinuxHaRadio:
    return LinuxHaRadio([wire], RING, node, Timing(), 3, lambda: 0.0, uuid)


def test_fields_stand_where_linux_ha_puts_them() -> None:
    here, there = Queue("eth0"), Queue("eth0")
    ours, theirs = radio(here), radio(there, "vs-28")
    theirs.transmit({"t": "status", "st": "up", "dt": "bb8", "protocol": "1", "seq": "1", "hg": "6b"})
    here.arrived = list(there.sent)
    (heard,) = ours.heard_frames()
    assert list(heard.fields) == ["t", "st", "dt", "protocol", "src", "srcuuid", "seq", "hg", "ts", "ld", "ttl"]
    assert (heard.link, heard.fields["src"], heard.fields["ttl"]) == ("eth0", "vs-28", "4")
    ours.transmit({"t": "NS_ackmsg", "dest": "vs-28", "ackseq": "a", "hg": "6b"})
    fields = decode(here.sent[0], RING)
    assert list(fields) == ["t", "dest", "ackseq", "destuuid", "src", "srcuuid", "hg", "ts", "ttl"]
    assert fields["destuuid"] == heard.fields["srcuuid"]


def test_what_it_said_itself_is_not_heard_and_a_namesake_is_told() -> None:
    wire = Queue("eth0", "bcast")
    own = radio(wire)
    own.transmit({"t": "status", "seq": "1", "hg": "6b"})
    wire.arrived = list(wire.sent)
    assert own.heard_frames() == [] and not own.counters()["eth0"]["senders"]
    wire.arrived = [encode({"t": "status", "src": "vs-166", "srcuuid": b"x" * 16}, RING), b"noise"]
    assert own.heard_frames() == []
    counted = own.counters()["eth0"]
    assert (counted["foreign"], counted["unauthentic"]) == (1, 1)


def test_the_uuid_that_linux_ha_left_is_kept(tmp_path: Path) -> None:
    wire = Queue("eth0", "bcast")
    (tmp_path / "hb_uuid").write_bytes(bytes(range(16)))
    radio(wire, uuid=tmp_path / "hb_uuid").transmit({"t": "status", "seq": "1", "hg": "6b"})
    assert decode(wire.sent[0], RING)["srcuuid"] == bytes(range(16))
    (tmp_path / "hb_uuid").write_bytes(b"short")
    radio(wire, uuid=tmp_path / "hb_uuid").transmit({"t": "status", "seq": "1", "hg": "6b"})
    assert len(decode(wire.sent[1], RING)["srcuuid"]) == 16


# --- generations ----------------------------------------------------------------------------------------------------------


def test_the_generation_is_above_linux_ha_s_and_left_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "hb_generation").write_text("1795252682\n")
    assert Generation(store).next(17) == 1795252683
    assert (tmp_path / "hb_generation").read_text() == (tmp_path / "generation").read_text() == "1795252683\n"
    assert Generation(store).next(1795252690) == 1795252690
    assert store.next_generation(0.0) == 1795252691


def test_without_linux_ha_s_file_none_is_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert Generation(store).next(17) == 17
    assert not (tmp_path / "hb_generation").exists()


@pytest.mark.parametrize("content", ["", "rubbish", "\xff"])
def test_a_damaged_file_of_linux_ha_s_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "hb_generation").write_bytes(content.encode("latin-1"))
    assert Generation(Store(tmp_path)).next(17) == 17
