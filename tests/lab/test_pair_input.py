"""Wrong module.xml, ha.cf and authkeys on a server of a running pair.

Promise: each is refused with file, line where there is one, what is wrong and a remedy, exit status 6; no file, no process and
no role changes. Source: issue "Bad input and faults"; house style, 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bench.pair import MODULE_XML, module_xml, other
from lab.api import Node

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
_NOT_CONFIGURED = 6
_GOOD = module_xml()


@dataclass(frozen=True)
class Bad:
    """``text`` None: no such file; ``mark``: what stands in the line that must be named."""

    text: str | None
    says: tuple[str, ...]
    mark: str = ""

    def place(self, path: str) -> str:
        if self.text is None or not self.mark:
            return path
        line = next(number for number, line in enumerate(self.text.splitlines(), 1) if self.mark in line)
        return f"{path}:{line}:"


def _changed(old: str, new: str) -> str:
    assert old in _GOOD
    return _GOOD.replace(old, new)


_MODULES = {
    "missing": Bad(None, ("no such file",)),
    "empty": Bad("", ()),
    "not XML": Bad(_changed("<init>", "<init"), ("not well-formed",)),
    "another language": Bad("keepalive = 2\n", ("XML",), "keepalive"),
    "a name for an address": Bad(_changed('ip="192.168.120.28"', 'ip="vs-28"'), ("default_passive", "ip"), "<default_passive"),
    "unknown host": Bad(_changed('name="vs-28"', 'name="vs-29"'), ("vs-29",)),
    "nobody's addresses": Bad(
        module_xml(active="192.168.120.7", passive="192.168.120.8"), ("neither address", "default_active"), "<default_active"
    ),
    "VIP outside every network": Bad(module_xml(vip="172.16.0.9"), ("virtual_ip", "172.16.0.9", "networks"), "<virtual_ip"),
    "VIP of a server": Bad(module_xml(vip="192.168.120.28"), ("virtual_ip", "own address"), "<virtual_ip"),
    "keepalive above deadtime": Bad(
        module_xml(timing='<timing keepalive="2" deadtime="1"/>'), ("deadtime > 2 × keepalive",), "<timing"
    ),
    "a time without sense": Bad(module_xml(timing='<timing deadtime="soon"/>'), ("deadtime", "seconds"), "<timing"),
    "unknown element": Bad(module_xml(link="<lnik/>"), ("lnik",), "<lnik"),
    "a link of somebody else": Bad(
        module_xml(link='<link default_active="10.9.0.1" default_passive="10.9.0.2"/>'), ("link", "not an address"), "<link"
    ),
}


@pytest.fixture
def passive(installed: Duo) -> Iterator[Node]:
    """The passive server; afterwards nothing about it may be different."""
    duo = installed
    active = duo.settle()
    node = duo.pair.node(other(active))
    before = _state(duo, node)
    yield node
    node.sh(f"rm -rf {MODULE_XML}")
    node.write(MODULE_XML, _GOOD)
    assert _state(duo, node) == before
    assert duo.settle() == active


def _state(duo: Duo, node: Node) -> object:
    folders = "/etc/heartbeat /etc/Manager /var/wasp/conf/Commander /etc/ha_manager /var/lib/ha_manager/postgres"
    return node.sh(f"find {folders} -type f | sort | xargs sha256sum"), duo.processes(node.name)


@pytest.mark.parametrize("bad", _MODULES.values(), ids=_MODULES.keys())
def test_ha_start_refuses_a_wrong_module_xml(passive: Node, bad: Bad) -> None:
    node = passive
    node.sh(f"rm {MODULE_XML}")
    if bad.text is not None:
        node.write(MODULE_XML, bad.text)
    refused = node.run(["ha", "start"], check=False)
    assert refused.code == _NOT_CONFIGURED, refused
    _names_it(refused.stderr, bad, MODULE_XML)
    assert "nothing was changed" in refused.stderr


def test_ha_start_refuses_what_cannot_be_read(passive: Node) -> None:
    passive.sh(f"rm {MODULE_XML}; mkdir {MODULE_XML}")
    refused = passive.run(["ha", "start"], check=False)
    assert refused.code == _NOT_CONFIGURED and MODULE_XML in refused.stderr, refused


_HEARTBEAT = {
    "ha.cf missing": ("ha.cf", Bad(None, ())),
    "keepalive above deadtime": ("ha.cf", Bad("{}\nkeepalive 2\ndeadtime 1\n", ("keepalive",), "")),
    "unknown directive": ("ha.cf", Bad("{}\nkeepalife 2\n", ("keepalife",), "keepalife")),
    "unknown host": ("ha.cf", Bad("{}\nnode vs-29\n", ("exactly two",), "")),
    "no time": ("ha.cf", Bad("{}\ndeadtime soon\n", ("soon",), "soon")),
    "authkeys missing": ("authkeys", Bad(None, ())),
    "authkeys empty": ("authkeys", Bad("", ())),
    "unknown method": ("authkeys", Bad("auth 1\n1 rot13 word\n", ("no known method",), "rot13")),
    "no such key": ("authkeys", Bad("auth 2\n1 sha256 word\n", ("2",), "")),
}


@pytest.mark.parametrize(("file", "bad"), _HEARTBEAT.values(), ids=_HEARTBEAT.keys())
def test_heartbeat_refuses_a_wrong_file(passive: Node, file: str, bad: Bad) -> None:
    folder = _copy(passive)
    path = f"{folder}/{file}"
    good = passive.read(path)
    passive.sh(f"rm {path}")
    if bad.text is not None:
        bad = Bad(bad.text.replace("{}", good.rstrip()), bad.says, bad.mark)
        passive.write(path, bad.text or "", 0o600)
    _refused(passive, folder, path, bad)


def test_heartbeat_refuses_authkeys_that_others_can_read(passive: Node) -> None:
    folder = _copy(passive)
    passive.sh(f"chmod 644 {folder}/authkeys")
    _refused(passive, folder, f"{folder}/authkeys", Bad(None, ("chmod 600",)))


def test_ha_restart_refuses_files_with_which_heartbeat_would_not_start_again(passive: Node) -> None:
    pid = passive.sh("cat /run/heartbeat/heartbeat.pid")
    passive.sh("cp -p /etc/heartbeat/ha.cf /tmp/ha.cf.good; echo bogus 1 >> /etc/heartbeat/ha.cf")
    try:
        refused = passive.run(["ha", "restart"], check=False, timeout=30.0)
    finally:
        passive.sh("mv /tmp/ha.cf.good /etc/heartbeat/ha.cf")
    assert refused.code == _NOT_CONFIGURED and "bogus" in refused.stderr and "nothing was changed" in refused.stderr
    assert passive.sh("cat /run/heartbeat/heartbeat.pid") == pid


def test_a_heartbeat_that_ha_restart_ends_is_no_alarm(installed: Duo) -> None:
    node = installed.pair.node(other(installed.settle()))
    pid, before = node.sh("cat /run/heartbeat/heartbeat.pid"), len(node.log())
    node.run(["ha", "restart"], timeout=30.0)
    installed.settle()
    said = node.log()[before:]
    assert node.sh("cat /run/heartbeat/heartbeat.pid") != pid
    assert "(ha restart)" in said and "alarm heartbeat: " not in said, said


def _copy(node: Node) -> str:
    folder = "/tmp/bad-input"
    node.sh(f"rm -rf {folder}; cp -a /etc/heartbeat {folder}")
    return folder


def _refused(node: Node, folder: str, path: str, bad: Bad) -> None:
    own = [f"--{name}-dir={folder}/{name}" for name in ("state", "run", "manager")]
    argv = ["/opt/ha-manager/venv/bin/python", "-m", "heartbeat.daemon", "--foreground", f"--config-dir={folder}", *own]
    refused = node.run(argv, check=False, timeout=20.0)
    assert refused.code == _NOT_CONFIGURED, refused
    _names_it(refused.stderr, bad, path)


def _names_it(text: str, bad: Bad, path: str) -> None:
    assert bad.place(path) in text, text
    for word in bad.says:
        assert word in text, text
    assert "(" in text  # the remedy, as errors.ConfigError gives it
