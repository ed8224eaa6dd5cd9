"""ha show: the first line for each situation, and the page where something doesn't answer."""

from __future__ import annotations

import os
import selectors
import threading
from pathlib import Path
from typing import Any

import pytest

from ha_manager.cli import explain_to
from ha_manager.config import Config, reach
from ha_manager.host import Host, load_host
from ha_manager.showing import collect, headline, print_all
from ha_manager.site import Server, Site
from runtime.control import ControlServer
from runtime.errors import ConfigError, NotPermitted

HEARD: dict[str, Any] = {"phase": "passive", "contact": True, "fit": True, "heard_ago": 0.1}
ACTIVE = {"role": "active", "heartbeat": {"peer_state": HEARD, "vip": {"held": True}}}
PASSIVE = {"role": "passive", "heartbeat": {"fit": True, "peer_state": HEARD | {"phase": "active", "fit": False}}}
MIB, GIB = 2**20, 2**30
RESTING = {"processes": [{"name": name, "state": "stopped", "wanted": False} for name in ("heartbeat", "ha_manager")]}


def found(**changes: Any) -> dict[str, Any]:
    page: dict[str, Any] = {
        "node": "vs-166", "peer": "vs-28", "virtual_ip": "192.168.120.187", "role": "unknown", "errors": {}, "alarms": {},
        "notes": {}, "explain": [], "heartbeat": {}, "ha_manager": {}, "manager": {},
    }  # fmt: skip
    return page | changes


def with_peer(base: dict[str, Any], **peer: Any) -> dict[str, Any]:
    """``base`` with another word about the peer; itself not fit."""
    return base | {"heartbeat": base["heartbeat"] | {"fit": False, "peer_state": base["heartbeat"]["peer_state"] | peer}}


def with_link(base: dict[str, Any], state: str, **alarms: str) -> dict[str, Any]:
    """``base`` whose only link is ``state``: "up" while anything is heard there, also from who doesn't hear this server."""
    return base | {"heartbeat": base["heartbeat"] | {"links": {"eth0": state}, "alarms": alarms}}


HEADLINES = [
    (ACTIVE, "vs-166 is active, vs-28 is ready to take over", "green"),
    (with_peer(ACTIVE, fit=False), "vs-166 is active, but vs-28 could not take over", "yellow"),
    (ACTIVE | {"ha_manager": {"postgres": "stopped"}}, "vs-166 is active, but its Postgres takes no writes now: no service",
     "red"),
    (ACTIVE | {"ha_manager": {"postgres": "unknown"}}, "vs-166 is active, vs-28 is ready to take over", "green"),
    (PASSIVE, "vs-166 is passive, ready to take over from vs-28", "green"),
    (with_peer(PASSIVE), "vs-166 is passive, not ready to take over from vs-28", "yellow"),
    (with_peer(PASSIVE, contact=False), "vs-166 is not active, and hears no other server: there may be no service",
     "red"),
    (with_link(with_peer(PASSIVE, contact=False), "up"), "vs-166 is passive, not ready to take over from vs-28", "yellow"),
    (with_link(with_peer(PASSIVE, contact=False), "dead", held="vs-28 is silent but still serves"),
     "vs-166 is not active; vs-28 is not heard, but still serves", "yellow"),
    (with_peer(PASSIVE, phase="passive"), "neither vs-166 nor vs-28 is active now: no service", "red"),
    ({"manager": RESTING}, "HA is off on vs-166; `ha start` turns it on", "yellow"),
    ({"role": "active", "only_root": True}, "vs-166 is active; only root is told more", "yellow"),
    ({"role": "active"}, "vs-166 is active, and its heartbeat does not answer", "red"),
    ({}, "what vs-166 is now is not known, and its heartbeat does not answer", "red"),
    ({"only_root": True}, "what vs-166 is now is not known; only root is told more", "yellow"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "sentence", "colour"), HEADLINES, ids=[row[1] for row in HEADLINES])
def test_the_first_line_says_whether_there_is_service(state: dict[str, Any], sentence: str, colour: str) -> None:
    assert headline(found(**state)) == (sentence, colour)


def test_all_is_well_only_without_alarms_and_notes_are_no_alarms(capsys: pytest.CaptureFixture[str]) -> None:
    print_all(found(**ACTIVE, notes={"ha_manager: diverged": "replaced"}))
    page = capsys.readouterr().out
    assert page.splitlines()[0].endswith("; all is well") and "note: replaced" in page
    print_all(found(**ACTIVE, alarms={"manager: heartbeat": "pid 19 died", "heartbeat: solo": "alone"}))
    page = capsys.readouterr().out
    assert page.splitlines()[0].endswith("; 2 alarms") and "! heartbeat: pid 19 died" in page and "! alone" in page


SIZES = [
    ({"disk_free": 77 * GIB + 1, "disk_total": 251 * GIB, "timeline": 2}, "standby, timeline 2, disk 77 of 251 GiB free"),
    ({"disk_free": 700 * MIB, "disk_total": 251 * GIB, "timeline": 0}, "standby, disk 700 MiB of 251 GiB free"),
    ({"disk_free": 12 * MIB, "disk_total": 250 * MIB}, "standby, disk 12 MiB of 250 MiB free"),
    ({"disk_free": -1, "disk_total": -1}, "standby, disk unknown"),
]


@pytest.mark.parametrize(("database", "words"), SIZES, ids=[row[1] for row in SIZES])
def test_what_postgres_has_left_is_told_in_a_unit_that_says_something(
    database: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = {"postgres": "standby", "replication": "off", "trouble": "", "database": database}
    print_all(found(**PASSIVE, ha_manager=manager))
    assert f"  Postgres           {words}\n" in capsys.readouterr().out


def test_what_does_not_answer_is_an_alarm_unless_ha_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    errors = {"heartbeat": "heartbeat is not running"}
    print_all(found(errors=errors))
    assert "! heartbeat is not running" in (page := capsys.readouterr().out) and "not known whether it is held" in page
    alone = {name: f"{name} is not running" for name in ("ha_manager", "manager")}
    print_all(found(errors=alone))
    assert "`ha start` starts both" in " ".join(capsys.readouterr().out.split()), "nobody else starts either"
    print_all(found(errors={"ha_manager": alone["ha_manager"]}))
    assert "starts both" not in " ".join(capsys.readouterr().out.split()), "the Manager does"
    print_all(found(errors=errors, manager=RESTING))
    assert "!" not in (page := capsys.readouterr().out) and "heartbeat stopped (as it should be)" in page
    assert "not held here: HA is off" in page and "not known" not in page


def test_a_configuration_that_cannot_be_used_is_the_first_alarm_of_a_page_that_is_shown_all_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    print_all(found(**ACTIVE, configuration="module.xml:3: no such element", alarms={"heartbeat: solo": "alone"}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vs-166 is active, vs-28 is ready to take over; 2 alarms"
    assert lines[1:3] == ["  ! the configuration can't be used: module.xml:3: no such element", "  ! alone"]
    refused = "the new configuration is refused, the old one stays: module.xml:3: no such element"
    print_all(found(**ACTIVE, configuration="module.xml:3: no such element", alarms={"ha_manager: configuration": refused}))
    page = capsys.readouterr().out
    assert page.count("no such element") == 1 and "; 1 alarm\n" in page, "ha_manager was told to read it, and says the same"
    print_all(found(manager=RESTING, configuration="module.xml:3: no such element", errors={"heartbeat": "not running"}))
    lines = capsys.readouterr().out.splitlines()
    assert "module.xml:3" in lines[1] and "not running" not in "".join(lines), "off, but the file is wrong"


@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes somebody else here")
def test_somebody_else_than_root_is_not_told_that_heartbeat_does_not_answer(tmp_path: Path) -> None:
    conf, folder = tmp_path / "ha_manager.conf", tmp_path / "heartbeat"
    folder.mkdir(mode=0o700)
    conf.write_text(f"[paths]\nheartbeat_run = {folder}\nrun = {folder}\nmanager_run = {folder}\n")
    asked = reach(ConfigError("no such element"), conf)
    os.seteuid(65534)
    try:
        page = collect(asked)
        with pytest.raises(NotPermitted, match="only root may ask heartbeat"):  # and nothing that `ha start` would mend
            explain_to(print, asked)
    finally:
        os.seteuid(0)
    assert "only root may ask heartbeat" in page["errors"]["heartbeat"] and "only root is told more" in headline(page)[0]


def test_the_role_is_heartbeats_own_word_where_the_role_file_cannot_be_written(tmp_path: Path) -> None:
    conf = tmp_path / "ha_manager.conf"
    conf.write_text(f"[paths]\nheartbeat_run = {tmp_path}\nrun = {tmp_path}\nmanager_run = {tmp_path}\n")
    selector = selectors.DefaultSelector()
    server = ControlServer(
        tmp_path / "control",
        selector,
        {do: lambda _: {"role": "active", "peer": "vs-166"} for do in ("status", "show", "explain")},
    )
    ended = threading.Event()
    serving = threading.Thread(target=_serve, args=(selector, ended))
    serving.start()
    try:
        assert collect(reach(ConfigError("no such element"), conf))["role"] == "active"
        nameless = Config(Site(True, Server("127.0.0.1"), Server("127.0.0.2")), load_host(conf), False, "vs-28", "")
        assert collect(nameless)["peer"] == "vs-166", "its key is gone, and the daemons knew it"
    finally:
        ended.set()
        serving.join()
        server.close()


def _serve(selector: selectors.BaseSelector, ended: threading.Event) -> None:
    while not ended.is_set():
        for key, mask in selector.select(0.02):
            key.data(mask)


def test_names_are_those_of_the_keys_and_the_daemons_while_module_xml_cannot_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    (folder / "keys").mkdir(parents=True)
    for name, node in (("node", "vs-166"), ("peer", "vs-28")):
        (folder / "keys" / f"{name}.pub").write_text(f"ha-key-1 {node} ssh-ed25519 A x25519 B")
    conf = tmp_path / "ha_manager.conf"
    places = "\n".join(f"{name} = {tmp_path / name}" for name in ("run", "heartbeat_run", "manager_run"))
    conf.write_text(f"[paths]\netc = {folder}\n{places}\n")
    page = collect(reach(ConfigError("no such element", file="module.xml", line=3), conf))
    assert (page["node"], page["peer"], page["role"]) == ("vs-166", "vs-28", "unknown")
    assert page["configuration"].startswith("module.xml:3") and set(page["errors"]) == {"heartbeat", "ha_manager", "manager"}
    conf.write_text("rubbish")
    assert reach(ConfigError("x"), conf).host == Host()
