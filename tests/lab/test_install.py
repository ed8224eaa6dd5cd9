"""install.sh and the init scripts, on a machine of the lab: it reaches no package index, so nothing is fetched twice."""

from __future__ import annotations

import re
import shutil
import subprocess
from ipaddress import ip_interface
from pathlib import Path

import pytest

from lab.api import Lab, Node

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = "/etc/ha_manager/ha_manager.conf"
UNITS = "/usr/local/lib/systemd/system"


@pytest.fixture
def server(lab: Lab) -> Node:
    """A policy server as just installed, with the project's sources in /srv/project and nothing running."""
    lab.reinstall("vs-28")
    node = lab.node("vs-28")
    node.run(["/etc/init.d/manager", "stop"])
    pack = ["tar", "-cf", "-", "--exclude=./.venv", "--exclude=./.git", "--exclude=./.*_cache", "."]
    sources = subprocess.run(pack, cwd=ROOT, capture_output=True, check=True).stdout
    node.run(["sh", "-c", "mkdir /srv/project && tar -xf - -C /srv/project"], input=sources)
    return node


def install(node: Node, *words: str) -> str:
    return node.run(["/srv/project/install.sh", *words], timeout=120).stdout


def status_of(node: Node, service: str, verb: str) -> int:
    return node.run([f"/etc/init.d/{service}", verb], check=False).code


def test_what_is_installed_runs_from_opt(server: Node) -> None:
    where = server.run(["/opt/ha-manager/venv/bin/python", "-c", "import heartbeat; print(heartbeat.__file__)"]).stdout
    assert where.startswith("/opt/ha-manager/venv/")
    assert server.sh(
        "readlink -f /usr/bin/ha /usr/bin/cl_status /usr/bin/hb_standby /usr/bin/hb_takeover /usr/bin/manager-ctl"
    ).split() == [f"/opt/ha-manager/bin/{name}" for name in ("ha", "cl_status", "hb_standby", "hb_takeover", "manager-ctl")]
    assert server.sh("find /opt/ha-manager/venv/ -path '*/heartbeat/__pycache__/*.pyc' | head -n 1")  # daemons start fast


def test_systemd_does_not_come_between_the_manager_and_its_scripts(server: Node) -> None:
    """Where systemd runs, Debian's LSB functions redirect a script to systemctl, which doesn't know what the Manager runs."""
    server.sh("mkdir -p /run/systemd/system")
    try:
        assert [status_of(server, name, "status") for name in ("heartbeat", "ha_manager")] == [3, 3]
        server.run(["/etc/init.d/heartbeat", "start"], check=False)
        assert "systemd" not in server.run(["/etc/init.d/heartbeat", "stop"]).stdout
    finally:
        server.sh("rmdir /run/systemd/system")


def test_systemd_understands_the_units(server: Node) -> None:
    if shutil.which("systemd-analyze") is None:  # the lab's servers have what this machine has
        pytest.skip("there is no systemd on this machine")
    done = server.run(["sh", "-c", f"systemd-analyze verify {UNITS}/*.service"], check=False)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


def test_the_units_are_there_and_the_manager_alone_starts_at_boot(server: Node) -> None:
    if shutil.which("systemctl") is None:
        pytest.skip("there is no systemd on this machine: init scripts alone are installed")
    enabled = server.sh("find /etc/systemd/system -lname '*/manager.service' -o -lname '*/heartbeat.service'").split()
    assert enabled == ["/etc/systemd/system/multi-user.target.wants/manager.service"]
    units = {
        line.split()[0]: line.split()[1:] for line in server.sh(f"cd {UNITS} && stat -c '%n %U %a' *.service").splitlines()
    }
    assert {"manager.service", "heartbeat.service", "ha_manager.service", "logrelay.service"} <= units.keys()
    assert all(unit == ["root", "644"] for unit in units.values()), units


def test_owners_and_modes_whatever_the_mask_of_the_caller(server: Node) -> None:
    server.sh("rm -r /opt/finjan/configuration/ha; chmod 711 /var/lib/ha_manager")
    server.run(["sh", "-c", "umask 077; /srv/project/install.sh"], timeout=120)
    modes = {
        path: server.sh(f"stat -L -c '%U:%G %a' {path}").strip()
        for path in ("/opt/ha-manager", "/opt/ha-manager/venv", "/usr/bin/ha", "/etc/init.d/manager", SAMPLE,
                     "/etc/ha_manager/keys", "/opt/finjan/configuration/ha", "/var/lib/ha_manager")
    }  # fmt: skip
    assert modes == {
        "/opt/ha-manager": "root:root 755", "/opt/ha-manager/venv": "root:root 755", "/usr/bin/ha": "root:root 755",
        "/etc/init.d/manager": "root:root 755", SAMPLE: "root:root 644", "/etc/ha_manager/keys": "root:root 700",
        "/opt/finjan/configuration/ha": "root:root 700",
        "/var/lib/ha_manager": "root:root 711",  # as ha start made it: the user of Postgres must pass
    }  # fmt: skip
    assert server.run(["runuser", "-u", "nobody", "--", "ha", "amIactive"], check=False).code == 3


def test_an_installation_that_fails_leaves_the_old_one_as_it_was(server: Node) -> None:
    """A lab reaches no package index; a server may not, either, for a while."""
    before = server.sh("readlink /opt/ha-manager/venv; ls /opt/ha-manager")
    server.sh("echo '# another' >>/srv/project/requirements.txt; echo no-such-package==1 >>/srv/project/requirements.txt")
    done = server.run(["/srv/project/install.sh"], check=False, timeout=120, env={"PIP_RETRIES": "0", "PIP_NO_INDEX": "1"})
    assert done.code != 0
    assert server.sh("readlink /opt/ha-manager/venv; ls /opt/ha-manager") == before
    server.run(["/etc/init.d/manager", "start"])


def test_an_installation_of_before_is_replaced(server: Node) -> None:
    """Whose programs lay in a folder of that name; also into another root, which is this one here."""
    server.sh("cd /opt/ha-manager; old=$(readlink venv); rm venv; mv $old venv")
    server.sh("mkdir /srv/other; mount --bind / /srv/other")
    try:
        install(server, "--root", "/srv/other")
    finally:
        server.sh("umount /srv/other")
    link, folder = server.sh("ls -d /opt/ha-manager/venv*").split()
    assert server.sh(f"readlink -f {link}").strip() == folder
    assert server.sh("ls /var/tmp | grep ha-install || true") == ""
    server.run(["/etc/init.d/manager", "start"])


def test_a_second_run_fetches_nothing_and_keeps_what_the_administrator_wrote(server: Node) -> None:
    server.sh(f"echo '# mine' >>{SAMPLE}; rm /etc/Manager/manager.conf.xml")
    server.sh("echo '<!-- newer -->' >>/srv/project/conf/etc/Manager/commander_passive_module.xml")
    server.sh("echo '# newer' >>/srv/project/conf" + SAMPLE)
    said = install(server)
    assert "Debian packages" not in said and "Python packages" not in said
    assert server.read(SAMPLE).endswith("# mine\n")
    assert f"{SAMPLE} is yours and stays" in said
    assert server.read(f"/opt/ha-manager/share/conf{SAMPLE}").endswith("# newer\n")
    assert server.read("/etc/Manager/commander_passive_module.xml").endswith("<!-- newer -->\n")  # nobody had touched it
    assert not server.path("/etc/Manager/manager.conf.xml").exists()  # what was removed stays removed


def test_a_scanning_node_runs_the_manager_and_what_listens_to_notifiers_and_remembers_what_it_is(server: Node) -> None:
    said = install(server, "--scanner")
    assert "manager-ctl keys make" in said
    assert 'name="HA"' not in server.read("/etc/Manager/manager.conf.xml")
    server.run(["/etc/init.d/manager", "start"])
    server.run(["manager-ctl", "keys", "make"])
    server.sh("for n in $(seq 100); do manager-ctl status | grep -q 'none was received yet' && exit; sleep 0.1; done; exit 1")
    assert "manager-ctl keys make" in install(server), "without the word, too"
    assert 'name="HA"' not in server.read("/etc/Manager/manager.conf.xml")


def test_a_scanning_node_that_never_was_anything_else_directs(server: Node) -> None:
    """What install.sh --scanner leaves, the director's file filled in as docs/director.md says, and nothing more."""
    server.sh("rm -r /opt/ha-manager/share /etc/Manager /etc/heartbeat /etc/ha_manager /var/wasp /etc/init.d/director")
    server.sh("rm -rf /etc/director /usr/bin/director /usr/bin/swg-mon /etc/init.d/heartbeat")
    install(server, "--scanner")
    assert not server.path("/etc/init.d/heartbeat").exists() and not server.path("/var/wasp/conf/ha").exists()
    refused = server.run(["/etc/init.d/director", "start"], check=False)
    assert refused.code == 1 and "the director is turned off" in refused.stderr
    own = server.sh("ip -o -4 addr show dev eth0 scope global").split()[3]
    network = ip_interface(own).network
    vip = f"{network[-6]}/{network.prefixlen}"
    file = "/var/wasp/conf/director/current/module.xml"
    told = f'enabled="1" priority="99" management_ip="{own.partition("/")[0]}"'
    text = server.read(file).replace('enabled="0" priority="99" management_ip="10.1.1.1"', told).replace("10.1.1.250/24", vip)
    server.write(file, text)
    server.sh("umask 077; director key >/etc/director/lb.key")
    server.sh('sed -i \'/ProxyHA/s/enabled="0"/enabled="1"/\' /var/wasp/conf/Commander/current/module.xml')
    server.run(["/etc/init.d/manager", "start"])
    server.sh(f"for n in $(seq 200); do ip addr | grep -q ' {vip} ' && exit; sleep 0.1; done; director status; exit 1")
    assert "master, priority 99" in server.run(["director", "status"]).stdout
    server.run(["/etc/init.d/manager", "stop"])
    server.run(["/etc/init.d/director", "stop"])
    assert f" {vip} " not in server.sh("ip addr") and "director" not in server.sh("nft list tables")


def test_uninstalling_leaves_configuration_and_data_only(server: Node) -> None:
    server.run(["/etc/init.d/manager", "start"])
    server.write("/var/lib/heartbeat/record", "{}")
    server.write("/var/lib/ha_manager/postgres/postgresql.conf", "# as while HA is on\n")
    refused = server.run(["/srv/project/install.sh", "--uninstall"], check=False)
    assert refused.code == 1 and "HA is on here" in refused.stderr and server.path("/opt/ha-manager").exists()
    server.sh("rm /var/lib/ha_manager/postgres/postgresql.conf")
    install(server, "--uninstall")
    assert not server.path("/opt/ha-manager").exists()
    ours = ".*manager|heartbeat|logrelay|notifier|director|ha|cl_status|manager-ctl|notifier-ctl"
    assert server.sh(f"ls /etc/init.d /etc/rc?.d /usr/bin | grep -xE '{ours}' || true") == ""
    assert server.find("manager") == []
    assert server.path(SAMPLE).exists() and server.path("/var/lib/heartbeat/record").exists()
    assert install(server, "--uninstall")  # again is no error


def test_a_wrong_command_line_changes_nothing(server: Node) -> None:
    done = server.run(["/srv/project/install.sh", "--rot", "/"], check=False)
    assert done.code == 2 and "usage:" in done.stderr


def test_a_debian_package_s_files_are_not_replaced(server: Node) -> None:
    """A real Linux-HA heartbeat may be there to be replaced one node at a time."""
    server.sh("rm /usr/bin/cl_status; echo theirs >/usr/bin/cl_status; echo /usr/bin/cl_status >/var/lib/dpkg/info/rsync.list")
    assert "/usr/bin/cl_status belongs to a Debian package and stays" in install(server)
    assert server.read("/usr/bin/cl_status") == "theirs\n"


def test_init_scripts_answer_with_the_statuses_of_the_lsb(server: Node) -> None:
    assert status_of(server, "manager", "status") == 3
    assert status_of(server, "manager", "reload") == 7
    assert status_of(server, "manager", "stop") == 0
    assert status_of(server, "manager", "dance") == 2
    assert [status_of(server, "manager", verb) for verb in ("start", "status", "start", "reload", "force-reload")] == [0] * 5
    first = server.find("manager")
    assert status_of(server, "manager", "restart") == 0
    second = server.find("manager")
    assert len(first) == len(second) == 1 and first != second
    server.kill("manager")
    assert status_of(server, "manager", "status") == 1
    assert status_of(server, "manager", "start") == 0
    assert [status_of(server, "manager", verb) for verb in ("stop", "status")] == [0, 3]


def test_a_stranger_with_the_process_id_of_a_dead_service_is_left_alone(server: Node) -> None:
    server.sh("sleep 1000 >/dev/null 2>&1 & echo $! >/run/manager/manager.pid")
    assert status_of(server, "manager", "status") == 1
    assert status_of(server, "manager", "stop") == 0
    assert len(server.kill("sleep")) == 1


def test_a_service_that_can_t_start_says_why(server: Node) -> None:
    server.sh("rm -rf /etc/heartbeat")
    done = server.run(["/etc/init.d/heartbeat", "start"], check=False)
    assert done.code == 1
    assert re.search("/etc/heartbeat/.*: can't be read", done.stderr)
