"""The link to a real Linux-HA heartbeat: cl_status asked, the record before the want, the words of operators."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ha_manager import turning
from ha_manager.config import Config
from ha_manager.host import Host, LinuxHa, Paths, load_host
from ha_manager.linuxha import LinuxHaLink, load, peer_word, save
from ha_manager.local import role_line
from ha_manager.mailbox import Mailbox
from ha_manager.orders import ROLE_OF, Epoch, Facts, Names, Postgres, Role, Want
from ha_manager.reign import PeerWord, Record
from ha_manager.site import Server, Site
from runtime.clock import boottime
from runtime.errors import ConfigError
from runtime.loop import Loop
from tests.unit.test_ha_config import loaded, with_more


class Bench:
    """A real link with a ``cl_status`` that says what ``answer`` holds; ``listener`` and facts are ours."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.folder, self.answer = folder, folder / "answer"
        self.says("all")
        for name, text in {
            "cl_status": f'[ "$1" = rscstatus ] && . {self.answer}',
            "hb_standby": f"touch {folder}/gave",
        }.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        commands = LinuxHa((str(folder / "cl_status"),), (str(folder / "hb_standby"),))
        host = Host(paths=Paths(state=folder / "state", heartbeat_run=folder / "run"), linux_ha=commands)
        site = Site(True, Server("10.0.0.1"), Server("10.0.0.2"), heartbeat_cmd_interval=1, solo="release")
        self.config = Config(site, host, True, "vs-166", "vs-28")
        self.facts, self.word = Facts(), None
        self.events: list[object] = []
        self.alarms: dict[str, str] = {}
        mail = Mailbox(self.loop.selector)
        self.link = LinuxHaLink(
            lambda: self.config, mail, self, lambda: self.facts, lambda: self.word, lambda name, text: self._alarm(name, text)
        )
        self.word: PeerWord | None

    def says(self, word: str) -> None:
        self.answer.write_text(f"echo {word}\n")

    def _alarm(self, name: str, text: str) -> None:
        self.alarms[name] = text

    def linked(self) -> None:
        self.events.append("linked")

    def unlinked(self, because: str) -> None:
        self.events.append("unlinked")

    def wanted(self, want: Want) -> None:
        self.events.append(want)

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end, (self.events, self.alarms)
            self.loop.once(0.02)

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        answers: list[dict[str, Any]] = []
        assert self.link.request(do, fields, answers.append)
        self.until(lambda: answers)
        return answers[0]


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path)
    yield made
    made.link.end()


def test_the_record_is_on_the_disk_before_the_want_is_told(bench: Bench) -> None:
    seen: list[Record] = []
    bench.linked = lambda: seen.append(load(bench.folder / "state/linuxha.json"))  # type: ignore[method-assign]
    bench.link.start()
    bench.until(lambda: bench.link.want)
    want = bench.link.want
    assert want is not None and (want.postgres, want.names, want.epoch) == (
        Postgres.PRIMARY, Names.RELAXED, Epoch(1, "vs-166"),
    )  # fmt: skip
    assert seen == [Record(Epoch(1, "vs-166"), Role.ACTIVE, solo=True)]
    assert "Linux-HA" in bench.alarms["linux-ha"]
    line = role_line(bench.folder / "run")
    assert line is not None and (line.role, line.solo) == ("active", True) and line.expires > boottime()


def test_a_change_is_a_new_want_and_a_silent_heartbeat_an_alarm(bench: Bench) -> None:
    bench.link.start()
    bench.until(lambda: bench.link.want)
    bench.answer.write_text("echo 'ERROR: Cannot signon with heartbeat' >&2; exit 1\n")
    bench.until(lambda: "Cannot signon" in bench.alarms["linux-ha-status"])
    assert bench.link.want is not None and bench.link.want.serial == 1, "the role stays"
    bench.says("none")
    bench.until(lambda: bench.link.want is not None and bench.link.want.postgres is Postgres.STANDBY)
    assert bench.link.want.serial == 2 and bench.alarms["linux-ha-status"] == ""


def test_a_hung_cl_status_holds_nothing_up(bench: Bench) -> None:
    bench.answer.write_text("sleep 60\n")
    bench.link.start()
    assert bench.ask("status")["role"] == "passive" and "linux-ha-status" not in bench.alarms, "answered before the time is up"
    bench.until(lambda: "did not end within" in bench.alarms.get("linux-ha-status", ""))


def test_a_record_that_can_not_be_written_changes_nothing(bench: Bench) -> None:
    bench.answer.write_text("sleep 0.3; echo all\n")
    bench.link.start()
    (bench.folder / "state").write_text("in the way")
    bench.until(lambda: "can't be written" in bench.alarms.get("linux-ha-record", ""))
    assert bench.link.want is None and bench.events == []


def test_operators(bench: Bench) -> None:
    save_at = bench.folder / "state/linuxha.json"
    save_at.parent.mkdir()
    save(save_at, Record(Epoch(4, "vs-28"), Role.PASSIVE))
    bench.link.start()
    bench.until(lambda: "may lack" in bench.alarms.get("linux-ha-role", ""))
    assert "epoch 4/vs-28" in bench.ask("activate", force=False)["error"]
    assert bench.ask("standby")["error"] == "this server is not active"
    assert bench.ask("suspend")["error"] == "a Linux-HA heartbeat knows no suspend"
    assert bench.ask("activate", force=True, by="ha activate")["ok"]
    assert load(save_at) == Record(Epoch(5, "vs-166"), Role.ACTIVE, solo=True)
    assert "is not in sync" in bench.ask("standby")["error"] and not (bench.folder / "gave").exists()
    assert bench.ask("standby", force=True)["ok"] and (bench.folder / "gave").exists()
    assert bench.ask("status")["phase"] == "preparing", "until Linux-HA has done it"
    bench.says("none")
    bench.until(lambda: bench.ask("status")["phase"] == "passive")


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"epoch": [1, "a"], "role": "king"}')
    with pytest.raises(ConfigError, match="is damaged"):
        load(tmp_path / "r")


def test_the_peers_word_is_fresh_and_of_a_server_of_this_kind() -> None:
    state = {"decider": "linux-ha", "phase": "active", "epoch": [3, "vs-28"], "solo": False, "proven": 7}
    assert peer_word(state, boottime(), 10, ROLE_OF) == PeerWord(Role.ACTIVE, Epoch(3, "vs-28"), False, 7)
    assert peer_word(state, boottime() - 11, 10, ROLE_OF) is None
    assert peer_word(state | {"decider": "heartbeat"}, boottime(), 10, ROLE_OF) is None
    assert peer_word(state | {"epoch": "3"}, boottime(), 10, ROLE_OF) is None


CL_STATUS = "[linux-ha]\ncl_status = /usr/bin/cl_status\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", 'solo="silence" can\'t be had on a Linux-HA heartbeat'),
        ('<replication solo="silence"/>', 'solo="silence" can\'t be had'),
        ('<replication synchronous="off" solo="release"/>', 'synchronous="off" can\'t be had'),
    ],
)
def test_on_linux_ha_the_active_may_not_guess(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as wrong:
        loaded(tmp_path, with_more(more), CL_STATUS)
    assert wrong.value.line and 'solo="release"' in str(wrong.value.remedy)


@pytest.mark.parametrize("element", ['<fence agent="fence_apc"/>', '<watchdog device="/dev/watchdog"/>'])
def test_on_linux_ha_nothing_is_promised_that_ours_would_do(tmp_path: Path, element: str) -> None:
    with pytest.raises(ConfigError, match="nothing would be done by it") as wrong:
        loaded(tmp_path, with_more(f'<replication solo="release"/>{element}'), CL_STATUS)
    assert wrong.value.line and "Linux-HA's own ha.cf" in str(wrong.value.remedy)


def test_on_linux_ha_with_release(tmp_path: Path) -> None:
    assert loaded(tmp_path, with_more('<replication solo="release"/>'), CL_STATUS).host.linux_ha.cl_status == (
        "/usr/bin/cl_status",
    )
    (tmp_path / "c").write_text("[linux-ha]\ncl_status = cl_status\n")
    with pytest.raises(ConfigError, match=r"c:2: .*absolute path"):
        load_host(tmp_path / "c")


def test_the_manager_must_not_start_a_second_heartbeat(tmp_path: Path) -> None:
    sample = (Path(__file__).parents[2] / "conf/etc/Manager/manager.conf.xml").read_text()
    (tmp_path / "m.xml").write_text(sample)
    with pytest.raises(ConfigError, match=r"m\.xml:\d+: .*beside Linux-HA's"):
        turning._refuse_second_heartbeat(tmp_path / "m.xml")
    (tmp_path / "m.xml").write_text(sample.replace('name="heartbeat"', 'name="other"'))
    turning._refuse_second_heartbeat(tmp_path / "m.xml")
