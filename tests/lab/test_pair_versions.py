"""Two policy servers on the newest Postgres that can be had, outside Debian's layout (``ha_manager.conf`` names its place),
with TLS: put up, crashed, brought back, handed over, turned off.
"""

from __future__ import annotations

import subprocess

import pytest

from bench.pair import Pair, other
from lab import postgres
from lab.api import Lab, Node
from lab.layer import say
from runtime.errors import HaError
from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]

NEWEST = max(postgres.majors())
PLACE = """
[postgres]
bin_dir = /opt/postgresql/bin
data_dir = /srv/postgresql/main
log_file = /var/log/postgresql/newest.log
"""
MAKE = r"""
set -e
pg_dropcluster --stop "$(ls /etc/postgresql)" main
install -d -o postgres /srv/postgresql /run/postgresql
cd /
runuser -u postgres -- /opt/postgresql/bin/initdb -D /srv/postgresql/main -k -A peer --auth-host=scram-sha-256 >/dev/null
cat >>/srv/postgresql/main/postgresql.conf <<'END'
unix_socket_directories = '/var/run/postgresql'
ssl = on
END
cd /srv/postgresql/main
openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj "/CN=$(uname -n)" -days 2 \
    -keyout server.key -out server.crt 2>/dev/null
chown postgres server.key server.crt
echo 'host policy_server ledger 192.168.120.0/24 trust' >>/srv/postgresql/main/pg_hba.conf
sed -i '1i local policy_server ledger trust' /srv/postgresql/main/pg_hba.conf
"""
CTL = "cd / && runuser -u postgres -- /opt/postgresql/bin/pg_ctl -D /srv/postgresql/main"


class Newest(Pair):
    start_cluster = f"{CTL} -w -l /dev/null start"

    def make_cluster(self, node: Node) -> None:
        tree = postgres.provide(NEWEST).parent
        subprocess.run(["cp", "-a", f"{tree}/.", str(node.path("/opt/postgresql"))], check=True)
        node.write("/etc/ha_manager/ha_manager.conf", node.read("/etc/ha_manager/ha_manager.conf") + PLACE)
        node.sh(MAKE, timeout=120.0)


def sql(node: Node, text: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-X", "-At", "-d", "policy_server", "-c", text]
    return node.run(words, check=False).stdout.strip()


def test_a_pair_on_the_newest_postgres(fresh_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        postgres.provide(NEWEST)
    except HaError as absent:
        pytest.skip(str(absent))
    pair = Newest(fresh_lab, say)
    duo = Duo(pair, tmp_path_factory.mktemp("ledger"))
    try:
        pair.install()
        pair.start()
        duo.keep_writing()
        first = duo.settle()
        duo.drill.crash()
        duo.drill.rejoin(first)
        duo.drill.switchover()
        active = duo.settle()
        node = pair.node(active)
        assert sql(node, "SHOW server_version_num").startswith(str(NEWEST))
        assert sql(node, "SELECT ssl FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)") == "t"
        duo.check_writes()
    except BaseException:
        print(pair.explain())
        raise
    finally:
        duo.writers.stop()
    said = pair.ha(active, "stop").stdout
    assert "Postgres runs" in said and "writable" in said
    assert sql(node, "SELECT pg_is_in_recovery() || (SELECT count(*)::text FROM pg_replication_slots)") == "false0"
    assert sql(node, "SHOW config_file") == "/srv/postgresql/main/postgresql.conf"
    again = pair.ha(active, "stop").stdout
    assert "HA is off on this server already" in again
    assert sql(node, "SELECT 1") == "1"
    pair.ha(other(active), "stop")
    assert pair.node(other(active)).find("postgres") == []
