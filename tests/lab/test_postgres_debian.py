"""Debian's own cluster, in namespaces of its own: taken over, kept from everybody else, given back as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not Path("/usr/bin/pg_createcluster").exists(), reason="Debian's postgresql-common is not installed"),
]

#: Runs with /etc/postgresql, /var/lib and the like in memory, a network and a process table of its own.
SCRIPT = """
    import json, subprocess, sys
    from dataclasses import replace
    from pathlib import Path
    from ha_manager.cluster import Hints, find
    from ha_manager.database import Database
    from runtime.errors import ConfigError

    def shell(text):
        done = subprocess.run(text, shell=True, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()

    def sql(text):
        return shell(f'runuser -u postgres -- psql -p 5555 -Atc "{text}"')

    said = {}
    version = max(Path("/usr/lib/postgresql").iterdir(), key=lambda path: int(path.name)).name
    try:
        find()
    except ConfigError as none:
        said["none"] = str(none)
    shell(f"pg_createcluster {version} first -p 5555 --start -- -k")
    start_conf = Path(f"/etc/postgresql/{version}/first/start.conf")
    before = start_conf.read_text()
    sql("CREATE TABLE t (id int)")
    config = find()
    said["found"] = [config.name, config.port, config.user, str(config.socket_dir), str(config.log_file)]
    shell(f"pg_createcluster {version} second -p 5556")
    try:
        find()
    except ConfigError as several:
        said["several"] = str(several)
    assert find(Hints(cluster=f"{version}/first")) == config
    admin = sorted((path, path.read_bytes()) for path in start_conf.parent.rglob("*") if path.is_file() and path != start_conf)
    database = Database(config, "a", "b", peer_addresses=("10.0.0.2",), password="x", note=lambda text: None)
    database.configure()
    said["stopped"] = shell(f"pg_lsclusters -h {version} first").split()[3]
    said["refused"] = shell(f"pg_ctlcluster {version} first start")
    database.attach()
    database.renew(60)
    database.make_primary(1)
    database.settle_primary(1)
    database.configure()
    said["runs"] = [shell(f"pg_lsclusters -h {version} first").split()[3], sql("SELECT count(*) FROM t"), sql("SHOW hba_file")]
    said["root"] = shell("psql -U postgres -p 5555 -Atc 'SELECT current_user'")
    said["log"] = shell(f"stat -c '%U %G %a' {config.log_file}")
    said["untouched"] = admin == sorted((path, path.read_bytes()) for path, _ in admin)
    database.unconfigure()
    said["given back"] = [start_conf.read_text() == before, sql("SELECT pg_is_in_recovery()"), sql("SHOW hba_file")]
    said["slots"] = sql("SELECT count(*) FROM pg_replication_slots")
    shell(f"pg_ctlcluster {version} first stop")
    print(json.dumps(said | {"version": version}))
"""

NAMESPACE = """
    set -e
    mount -t proc proc /proc
    ip link set lo up
    for folder in /etc/postgresql /var/lib /var/log /run; do mount -t tmpfs tmpfs $folder; done
    install -d -o postgres -g postgres /var/lib/postgresql /run/postgresql
    install -d -m 1775 -g postgres -o root /var/log/postgresql
    cd /
    exec "$0" -c "$1"
"""


def test_debians_cluster_is_taken_over_and_given_back() -> None:
    argv = [
        "unshare", "-mnpi", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", textwrap.dedent(NAMESPACE),
        sys.executable, textwrap.dedent(SCRIPT),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    version = said["version"]
    assert "there is no Postgres cluster here" in said["none"]
    assert said["found"] == [
        "first", 5555, "postgres", "/var/run/postgresql", f"/var/log/postgresql/postgresql-{version}-first.log"
    ]  # fmt: skip
    assert (
        f"several Postgres clusters here: {version}/first, {version}/second (name one as cluster = VERSION/NAME)"
        in said["several"]
    )
    assert said["stopped"] == "down,recovery" and "Cluster is disabled" in said["refused"]
    assert said["runs"] == ["online,recovery", "0", "/var/lib/ha_manager/postgres/pg_hba.conf"]
    assert said["root"] == "postgres"
    assert said["log"].split()[0] == "postgres" and said["log"].split()[2] == "640"
    assert said["untouched"]
    assert said["given back"] == [True, "f", f"/etc/postgresql/{version}/first/pg_hba.conf"]
    assert said["slots"] == "0"
