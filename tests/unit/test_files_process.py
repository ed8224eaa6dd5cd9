"""The process of the replicated files as ha_manager starts it: told its role, started again, gone with its starter."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ha_manager.config import Config, load
from ha_manager.copier import ALARM, Copier, Patience
from ha_manager.local import addresses
from ha_manager.orders import Epoch, Role
from runtime.control import Client
from runtime.errors import ControlError
from runtime.keys import Keys
from runtime.loop import Loop
from runtime.proctree import alive, process
from tests.lab.postgres_pair import free_port, until


class Starter:
    """What ha_manager does with it, in a loop of its own."""

    def __init__(self, config: Config) -> None:
        self.config, self.alarms = config, dict[str, str]()
        self.role = Role.PASSIVE
        self.copier = Copier(lambda: self.config, self.alarms.__setitem__, Patience(0.1, 10.0, 20.0))
        self.loop = Loop()
        self.threads = [threading.Thread(target=body, daemon=True) for body in (self.copier.run, self.loop.run)]
        self._tick()
        for thread in self.threads:
            thread.start()

    def _tick(self) -> None:
        self.copier.update(self.role, Epoch(3, "vs-28"), ("active", "3/vs-28", {}), False, self.loop.selector)
        self.loop.call_after(0.05, self._tick)

    def end(self) -> None:
        self.copier.end()
        self.loop.call_after(0, self.loop.stop)
        for thread in self.threads:
            thread.join(5.0)

    def status(self) -> dict[str, object]:
        try:
            with Client(self.copier.control, 2.0) as client:
                return client.request("status")
        except ControlError:
            return {}

    @property
    def pid(self) -> int:
        assert self.copier._child is not None
        return self.copier._child.pid


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    own = [str(each.ip) for each in addresses() if each.version == 4]
    if os.geteuid() != 0 or not own:
        pytest.skip("needs root, and an address beside loopback")
    (tmp_path / "run").mkdir()
    names = "".join(f"{name} = {tmp_path}/{name}\n" for name in ("etc", "state", "run", "staging"))
    (tmp_path / "ha_manager.conf").write_text(f"[paths]\n{names}")
    (tmp_path / "module.xml").write_text(
        f"""<module><init><ha enabled="1"/><default_active ip="{own[0]}"/><default_passive ip="192.0.2.77" name="vs-28"/>
        <ha_manager_configuration ha_manager_port="{free_port()}" files_port="{free_port()}"/>
        <files_to_replicate><file inotify="1" name="{tmp_path}/tree"/></files_to_replicate></init></module>"""
    )
    keys, peer = Keys(tmp_path / "etc/keys"), Keys(tmp_path / "peer")
    keys.make("vs-166")
    peer.make("vs-28")
    keys.accept(peer.show().line)
    made = Starter(load(addresses(), module_xml=tmp_path / "module.xml", conf=tmp_path / "ha_manager.conf"))
    yield made
    made.end()


def listens(config: Config) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((config.own_ip, config.site.files_port)) == 0


def process_state(pid: int) -> str:
    found = process(pid)
    return found.state if found else ""


def test_it_is_told_its_role_started_again_and_gone_with_its_starter(starter: Starter) -> None:
    until(lambda: starter.status().get("role") == "passive" and starter.copier.summary == "receiving", 10.0, every=0.05)
    until(lambda: listens(starter.config), 5.0, "sshd", every=0.05)
    starter.role = Role.ACTIVE
    until(lambda: starter.copier.summary == "waiting" and starter.copier.lines, 5.0, every=0.05)
    until(lambda: not listens(starter.config), 5.0, "sshd of an active", every=0.05)
    before = starter.pid
    os.kill(before, signal.SIGKILL)
    until(lambda: starter.pid != before and starter.status().get("role") == "active", 10.0, "another", every=0.05)
    last = starter.pid
    os.kill(last, signal.SIGSTOP)  # woken
    until(lambda: process_state(last) == "S", 5.0, every=0.05)
    until(lambda: starter.alarms.get(ALARM) == "", 5.0, every=0.05)
    starter.copier._patience = Patience(0.1, 0.2, 0.2)  # what is silent now for so long hangs
    os.kill(last, signal.SIGSTOP)
    until(lambda: "does not answer" in starter.alarms[ALARM], 5.0, every=0.01)
    starter.copier._patience = Patience(0.1, 10.0, 20.0)
    until(lambda: starter.pid != last and starter.alarms[ALARM] == "", 10.0, "another, as that one hung", every=0.05)
    last = starter.pid
    os.kill(last, signal.SIGSTOP)  # it can't end by itself
    until(lambda: process_state(last) == "T", 5.0, every=0.01)
    site = starter.config.site
    starter.config = replace(starter.config, site=replace(site, files=()))
    starter.copier.reload()
    assert process_state(last) == "T", "whoever reads the configuration again does not wait for its end"
    until(lambda: not alive(last), 5.0, "its end", every=0.05)
    starter.config = replace(starter.config, site=site)
    until(lambda: starter.pid != last and starter.status().get("role") == "active", 10.0, "another", every=0.05)
    last = starter.pid
    starter.end()
    assert not alive(last) and starter.status() == {}
