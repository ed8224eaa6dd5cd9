"""The lab itself: what its machines can do to each other, what its faults do, and that nothing of it stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.api import Lab, LabError, Node, labs
from lab.store import base
from runtime.errors import CommandFailed, ConfigError

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parent.parent.parent


def pings(sender: Node, address: str, count: int = 1) -> int:
    """How many of ``count`` echo requests were answered."""
    said = sender.run(["ping", "-n", "-q", "-c", str(count), "-i", "0.002", "-W", "0.3", address], check=False).stdout
    received = re.search(r"(\d+) received", said)
    assert received, said
    return int(received[1])


def echoes_seen(node: Node) -> int:
    """ICMP echo requests that arrived at the machine since it booted."""
    names, values = [line.split() for line in node.sh("cat /proc/net/snmp").splitlines() if line.startswith("Icmp:")]
    return int(values[names.index("InEchos")])


def eventually(condition: Callable[[], bool], limit: float = 10.0) -> bool:
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module", autouse=True)
def as_installed(pair: Lab) -> None:
    """Whatever other tests left on the two servers, a pair that serves perhaps."""
    pair.heal()
    for name in ("vs-166", "vs-28"):
        pair.reinstall(name)


# --- machines and cables --------------------------------------------------------------------------------------------------


def test_machines_reach_each_other_on_both_networks_by_name(lab: Lab) -> None:
    one, client = lab.node("vs-166"), lab.node("client")
    for sender, address in ((one, "vs-28"), (one, "10.120.0.28"), (one, "gateway"), (client, "vs-166"), (client, "vs-28")):
        assert pings(sender, address) == 1, (sender.name, address)


def test_the_virtual_address_is_nobody_s(lab: Lab) -> None:
    assert pings(lab.node("client"), "vip") == 0


@pytest.mark.parametrize(("way", "request_arrives"), [("in", False), ("out", True), ("vs-28", True)])
def test_a_link_cut_one_way_still_carries_the_other(lab: Lab, way: str, request_arrives: bool) -> None:
    client, server = lab.node("client"), lab.node("vs-28")
    assert pings(client, "vs-28") == 1  # both know each other's MAC from here on
    before = echoes_seen(server)
    lab.cut("vs-28:eth0", one_way=way)
    assert pings(client, "vs-28") == 0
    assert (echoes_seen(server) > before) is request_arrives
    lab.heal("vs-28:eth0")
    assert pings(client, "vs-28") == 1


def test_a_cut_network_leaves_the_other_alone(lab: Lab) -> None:
    lab.cut("lan")
    assert pings(lab.node("client"), "vs-166") == 0
    assert pings(lab.node("vs-166"), "10.120.0.28") == 1


def test_two_machines_can_lose_each_other_and_keep_everybody_else(lab: Lab) -> None:
    lab.cut("vs-166/vs-28")
    one, other = lab.node("vs-166"), lab.node("vs-28")
    assert [pings(one, "192.168.120.28"), pings(one, "10.120.0.28"), pings(other, "192.168.120.166")] == [0, 0, 0]
    assert [pings(one, "gateway"), pings(other, "gateway")] == [1, 1]
    lab.heal("vs-166/vs-28:lan")
    assert [pings(one, "192.168.120.28"), pings(one, "10.120.0.28")] == [1, 0]


def test_only_an_unplugged_cable_loses_its_carrier(lab: Lab) -> None:
    def carrier() -> str:
        return lab.node("vs-28").sh("cat /sys/class/net/eth0/carrier").strip()

    lab.cut("vs-28:eth0")
    assert carrier() == "1"
    lab.unplug("vs-28:eth0")
    assert carrier() == "0"
    lab.heal()
    assert carrier() == "1"
    assert pings(lab.node("client"), "vs-28") == 1


def test_a_lossy_link_loses_that_share(lab: Lab) -> None:
    assert pings(lab.node("client"), "vs-28") == 1
    lab.loss("vs-28:eth0", 30)
    assert 60 < pings(lab.node("client"), "192.168.120.28", 200) < 136  # 98 expected, deviation 7


def test_a_link_that_does_not_exist_is_named_with_those_that_do(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"no link 'vs-28:eth9'.*interconnect.*vs-28:eth1"):
        lab.cut("vs-28:eth9")
    with pytest.raises(ConfigError, match=r"no machine 'vs-29'.*vs-166"):
        lab.power_off("vs-29")


# --- power ----------------------------------------------------------------------------------------------------------------

_SERVER = """
import socket
with socket.create_server(("", 7777)) as server:
    there, _ = server.accept()
    print("connected", flush=True)
    there.recv(1)
"""
_CLIENT = """
import socket
with socket.create_connection(("192.168.120.166", 7777), timeout=5) as there:
    there.settimeout(1.0)
    print("connected", flush=True)
    try:
        print("closed" if not there.recv(1) else "data")
    except TimeoutError:
        print("silent")
    except ConnectionError as wrong:
        print(type(wrong).__name__)
"""


@pytest.mark.parametrize(("end", "seen"), [("power cut", "silent"), ("kill", "closed")])
def test_a_power_cut_is_silent_where_a_killed_process_is_not(lab: Lab, end: str, seen: str) -> None:
    """No FIN and no RST of a dying kernel: whoever was connected just hears nothing any more."""
    node = lab.node("vs-166")
    server = node.popen([sys.executable, "-c", _SERVER], files="host", stdout=subprocess.PIPE, text=True)
    assert eventually(lambda: ":7777" in node.sh("ss -Hltn"))
    client = lab.node("client").popen([sys.executable, "-c", _CLIENT], files="host", stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None and server.stdout is not None
    assert client.stdout.readline() == server.stdout.readline() == "connected\n"
    if end == "power cut":
        lab.power_off("vs-166")
    else:
        server.kill()
    assert client.communicate(timeout=10)[0].strip() == seen
    server.communicate(timeout=10)  # a program with this machine's files is gone with the power as well


def test_a_power_cut_keeps_the_disk_and_nothing_else(lab: Lab) -> None:
    node = lab.node("vs-166")
    node.sh("mkdir -p /srv/kept && echo data > /srv/kept/file && echo gone > /run/file && echo gone > /tmp/file")
    assert not node.path("/var/tmp/ha-lab/labs").exists()
    lab.power_off("vs-166")
    assert not node.is_on
    assert pings(lab.node("client"), "vs-166") == 0
    with pytest.raises(LabError, match="vs-166 is off"):
        node.run(["true"])
    assert node.read("/srv/kept/file") == "data\n"  # its disk can be looked at
    lab.power_on("vs-166")
    assert node.sh("cat /srv/kept/file; ls /run/file /tmp/file 2>/dev/null || true") == "data\n"
    # The client may still be asking, once a second, for the address that did not answer a moment ago.
    assert any(pings(lab.node("client"), "vs-166") for _ in range(10))
    assert node.log().count("init[1]: power on") >= 2


def test_a_machine_without_power_keeps_its_broken_cable(lab: Lab) -> None:
    lab.cut("vs-28:eth0")
    lab.unplug("vs-28:eth1")
    lab.power_off("vs-28")
    lab.power_on("vs-28")
    assert pings(lab.node("client"), "vs-28") == 0
    assert lab.node("vs-28").sh("cat /sys/class/net/eth1/carrier") == "0\n"


def test_a_shutdown_runs_the_stop_scripts_and_a_reboot_the_start_scripts(lab: Lab) -> None:
    node = lab.node("vs-28")
    node.write("/etc/init.d/witness", '#!/bin/sh\necho "$1" >>/srv/witness\n', 0o755)
    node.sh(
        "rm -f /srv/witness; ln -sf ../init.d/witness /etc/rc2.d/S99witness; ln -sf ../init.d/witness /etc/rc0.d/K01witness"
    )
    lab.reboot("vs-28")
    assert node.sh("cat /srv/witness") == "stop\nstart\n"
    node.sh("rm /etc/init.d/witness /etc/rc?.d/*witness")
    assert re.search(r"shutting down\n(.*\n)*.*power off\n.*power on\n", node.log())


def test_nothing_of_debian_s_starts_at_boot(lab: Lab) -> None:
    scripts = lab.node("vs-166").sh("for s in /etc/rc?.d/[SK]*; do readlink -f $s; done").split()
    assert set(scripts) == {"/etc/init.d/manager"}
    assert lab.node("gateway").processes() == {}


def test_run_is_as_debian_s_packages_want_it(lab: Lab) -> None:
    assert lab.node("vs-28").sh("stat -c '%a %U %G' /run/postgresql") == "2775 postgres postgres\n"


def test_a_new_disk_is_as_installed(lab: Lab) -> None:
    node = lab.node("vs-28")
    node.sh("echo x > /srv/mine; rm -r /opt/ha-manager")
    lab.reinstall("vs-28")
    assert not node.path("/srv/mine").exists()
    assert node.path("/opt/ha-manager/venv/bin/python").exists()


# --- programs -------------------------------------------------------------------------------------------------------------


def test_a_program_s_output_status_and_time_limit_come_back(lab: Lab) -> None:
    node = lab.node("vs-166")
    assert node.run(["cat"], input="to and fro").stdout == "to and fro"
    assert node.run(["sh", "-c", "hostname; exit 3"], check=False).code == 3
    with pytest.raises(CommandFailed, match="exit status 3: no"):
        node.run(["sh", "-c", "echo no >&2; exit 3"])
    with pytest.raises(CommandFailed, match="did not end within"):
        node.run(["sleep", "60"], timeout=0.2)
    assert eventually(lambda: not node.find("sleep"))


def test_the_checkout_is_hidden_from_programs_unless_they_ask_for_it(lab: Lab) -> None:
    node = lab.node("client")
    assert node.run(["ls", "-A", str(ROOT)], check=False).stdout == ""
    assert "setup.cfg" in node.run(["ls", str(ROOT)], files="host").stdout


def test_enter_passes_on_the_exit_status(lab: Lab) -> None:
    argv = [sys.executable, "-m", "lab", "--name", lab.name, "enter", "vs-28", "sh", "-c", "hostname; exit 7"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "vs-28\n"), done.stderr


def test_a_process_is_found_by_its_name_and_can_be_stopped_and_killed(lab: Lab) -> None:
    node = lab.node("vs-166")
    sleeper = node.popen(["sleep", "1000"])
    assert eventually(lambda: len(node.find("sleep")) == 1)
    (pid,) = node.kill("sleep", signal.SIGSTOP)
    assert eventually(lambda: "State:\tT" in Path(f"/proc/{pid}/status").read_text())
    assert node.kill("sleep") == [pid]
    assert sleeper.wait(5) != 0
    with pytest.raises(LabError, match="no 'sleep' runs on vs-166"):
        node.kill("sleep")


def test_a_program_that_was_stopped_does_not_keep_its_machine_from_losing_power(lab: Lab) -> None:
    node = lab.node("vs-166")
    node.popen(["sleep", "1000"])
    assert eventually(lambda: len(node.find("sleep")) == 1)
    node.kill("sleep", signal.SIGSTOP)
    time.sleep(0.2)  # nsenter notices, and stops as well
    began = time.monotonic()
    lab.power_off("vs-166")
    assert time.monotonic() - began < 5


def test_the_system_log_is_stamped_to_the_millisecond(lab: Lab) -> None:
    node = lab.node("vs-166")
    node.run(["logger", "-t", "who", "what\nand more"])
    assert eventually(lambda: "and more" in node.log())
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+\d\d:\d\d vs-166 who: what#012and more$", node.log(), re.M)


# --- nothing stays behind -------------------------------------------------------------------------------------------------


class Traces:
    """What a lab might leave on this machine."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._before = self._everything()

    def _everything(self) -> dict[str, set[str]]:
        namespaces = Path("/run/netns")
        return {
            "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
            "loops": set(subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout.splitlines()),
            "namespaces": {one.name for one in namespaces.iterdir()} if namespaces.exists() else set(),
            "interfaces": set(os.listdir("/sys/class/net")),
        }

    def processes(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if self._name in words and str(os.getpid()) != entry.name:
                found.append(" ".join(words)[:100])
        return found

    def left(self) -> dict[str, object]:
        now = self._everything()
        left: dict[str, object] = {kind: new for kind in now if (new := now[kind] - self._before[kind])}
        if here := self.processes():
            left["processes"] = here
        if (base() / "labs" / self._name).exists():
            left["directory"] = self._name
        return left


@pytest.fixture
def name() -> Iterator[str]:
    name = f"other-{os.getpid()}"
    yield name
    Lab(name).down()


_USER = """
import signal, sys, time
from lab.api import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
with Lab(sys.argv[1]) as lab:
    print("up", flush=True)
    time.sleep(60)
"""


def test_two_labs_side_by_side_do_not_notice_each_other_and_leave_nothing(lab: Lab, name: str) -> None:
    traces = Traces(name)
    with Lab(name) as other:
        assert traces.processes()  # else this test would not see them afterwards either
        assert pings(other.node("client"), "vs-166") == pings(lab.node("client"), "vs-166") == 1
        other.power_off("vs-166")
        other.cut("lan")
        assert pings(lab.node("client"), "vs-166") == 1
        other.node("vs-28").popen(["sleep", "1000"])
        with pytest.raises(LabError, match="is up already"):
            Lab(name).up()
    assert traces.left() == {}
    assert pings(lab.node("client"), "vs-166") == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_its_user_is_interrupted_or_killed(name: str, how: signal.Signals) -> None:
    traces = Traces(name)
    argv = [sys.executable, "-c", _USER, name]
    user = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0)
    assert user.stdout is not None
    assert user.stdout.readline() == b"up\n", user.communicate()
    os.killpg(user.pid, how)  # what Ctrl-C does: everybody in the group gets it
    user.communicate(timeout=20)
    assert eventually(lambda: traces.left() == {}), traces.left()


def test_a_lab_that_lost_its_maker_is_taken_down_from_the_command_line(name: str) -> None:
    traces = Traces(name)
    argv = [sys.executable, "-m", "lab", "--name", name]
    subprocess.run([*argv, "up"], cwd=ROOT, check=True, capture_output=True)
    assert name in labs()
    state = subprocess.run([*argv, "status"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.search(r"vs-166 +on +eth0 192.168.120.166/24 on lan", state)
    subprocess.run([*argv, "down"], cwd=ROOT, check=True, capture_output=True)
    assert traces.left() == {}
    assert subprocess.run([*argv, "status"], cwd=ROOT, capture_output=True, check=False).returncode == 3
    subprocess.run([*argv, "down"], cwd=ROOT, check=True, capture_output=True)  # again is no error
