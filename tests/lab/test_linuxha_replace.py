"""A pair of Linux-HA nodes is replaced one server at a time, with the commands of docs/linux-ha.md."""

from __future__ import annotations

import subprocess

import pytest

from lab.api import Lab, Node
from lab.layer import PROJECT
from tests.lab.linuxha_pair import OURS, THEIRS, LinuxHaPair, until

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.linuxha_lab"]

#: docs/linux-ha.md, "Replacing a pair", word for word; a test holds both against each other
REPLACE = """
/etc/init.d/heartbeat stop
apt-get purge -y heartbeat
./install.sh
cp -p /etc/ha.d/ha.cf /etc/ha.d/haresources /etc/ha.d/authkeys /etc/heartbeat/
echo 'compatibility linux-ha' >>/etc/heartbeat/ha.cf
/etc/init.d/heartbeat start
update-rc.d heartbeat defaults
""".strip().splitlines()


@pytest.fixture(scope="module")
def servers(linuxha: Lab) -> LinuxHaPair:
    """Two servers with Linux-HA, as just installed, and the project's sources in /srv/project. The lab is this module's own."""
    for name in ("vs-166", "vs-28"):
        unpack(linuxha.node(name))
    pair = LinuxHaPair(linuxha, {"vs-166": THEIRS, "vs-28": THEIRS})
    pair.configure()
    return pair


def unpack(node: Node) -> None:
    pack = ["tar", "-cf", "-", "--exclude=./.venv", "--exclude=./.git", "--exclude=./.*_cache", "."]
    sources = subprocess.run(pack, cwd=PROJECT, capture_output=True, check=True).stdout
    node.run(["sh", "-c", "mkdir -p /srv/project && tar -xf - -C /srv/project"], input=sources)


def replace(node: Node) -> None:
    for command in REPLACE:
        node.run(["sh", "-c", f"cd /srv/project && {command}"], timeout=120)


def test_install_leaves_a_real_linux_ha_alone(servers: LinuxHaPair) -> None:
    node = servers["vs-28"].node
    said = node.run(["/srv/project/install.sh"], timeout=120).stdout
    assert "Linux-HA's heartbeat stays" in said
    assert "heartbeat: /etc/init.d/heartbeat" in node.sh("dpkg -S /etc/init.d/heartbeat")
    assert node.sh("dpkg --verify heartbeat; ls /usr/bin/hb_standby /usr/bin/hb_takeover 2>/dev/null || true") == ""
    node.run(["/srv/project/install.sh", "--uninstall"], timeout=60)
    assert node.sh("dpkg --verify heartbeat") == "" and not node.path("/opt/ha-manager").exists()
    servers.lab.reinstall("vs-28")
    node.run(["/etc/init.d/manager", "stop"])
    unpack(node)
    servers["vs-28"].configure_as(servers["vs-166"])


def test_the_documented_commands_are_these() -> None:
    text = (PROJECT / "docs" / "linux-ha.md").read_text()
    said = [line.partition("  #")[0].strip() for line in text.splitlines() if line.startswith("    ")]
    assert [line for line in said if line in REPLACE][: len(REPLACE)] == REPLACE


def test_one_server_after_the_other(servers: LinuxHaPair) -> None:
    lab = servers.lab
    servers["vs-166"].start()
    until("Linux-HA holds everything", lambda: servers["vs-166"].resources() == "all")
    servers["vs-28"].start()
    servers.until_settled("vs-166")
    before = int(servers["vs-28"].node.read("/var/lib/heartbeat/hb_generation"))
    replace(lab.node("vs-28"))
    half = LinuxHaPair(lab, {"vs-166": THEIRS, "vs-28": OURS})
    half.until_settled("vs-166")
    assert int(lab.node("vs-28").read("/var/lib/heartbeat/hb_generation")) > before
    assert lab.node("vs-28").sh("readlink /usr/bin/cl_status /usr/bin/hb_takeover").split() == [
        "/opt/ha-manager/bin/cl_status",
        "/opt/ha-manager/bin/hb_takeover",
    ]
    lab.node("vs-28").run(["hb_takeover"])
    half.until_settled("vs-28")
    replace(lab.node("vs-166"))
    whole = LinuxHaPair(lab, {"vs-166": OURS, "vs-28": OURS})
    whole.until_settled("vs-28")
    lab.node("vs-28").run(["hb_standby"])
    whole.until_settled("vs-166")
    whole["vs-166"].kill()
    until("vs-28 takes over", lambda: whole["vs-28"].resources() == "all" and whole.holders() == ["vs-28"])
    whole["vs-166"].start()
    whole.until_settled("vs-28")
