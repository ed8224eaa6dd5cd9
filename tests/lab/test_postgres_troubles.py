"""Postgres's own troubles on a pair under load, one after the other: what people do to it, what disks and clients do.

Promise: each ends by itself, with the pair in sync, nothing acknowledged lost (checked by the fixture) and an alarm in words
that name it. Its servers have disks of their own, so it comes after the other modules with a pair. Source: issue "Postgres: no
acknowledged write lost" (in-place care); docs/failure-modes.md.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from bench.pair import SERVERS, other
from bench.writers import PLAIN, QUICK
from lab.api import Node
from lab.topology import VIP
from runtime.clock import boottime
from runtime.control import Client
from runtime.errors import ControlError

if TYPE_CHECKING:
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]
#: Disks that a test can fill: the database's, that of its log of changes, and that of Postgres's messages
PREPARE = """set -e
service postgresql stop >/dev/null 2>&1 || true
pg_dropcluster --stop "$(ls /etc/postgresql)" main
mount -t tmpfs -o size=900m,mode=755 none /var/lib/postgresql
chown postgres: /var/lib/postgresql
cp -a /var/log/postgresql /tmp/messages
mount -t tmpfs -o size=16m,mode=755 none /var/log/postgresql
cp -a /tmp/messages/. /var/log/postgresql
chown root:postgres /var/log/postgresql; chmod 1775 /var/log/postgresql
pg_createcluster 15 main >/dev/null
mkdir /srv/wal
mount -t tmpfs -o size=500m,mode=700 none /srv/wal
chown postgres: /srv/wal
cat >>/etc/postgresql-common/createcluster.conf <<'END'
initdb_options = '--waldir=/srv/wal/main'
max_wal_size = 128MB
wal_keep_size = 64MB
END
"""
_SERVICE, _ALARM = 20.0, 30.0
_DATA = "/var/lib/postgresql/15/main"


# --- what is asked of the servers -------------------------------------------------------------------------------------------


def psql(node: Node, text: str, *, check: bool = True, database: str = "policy_server") -> str:
    argv = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]
    return node.run(argv, input=text, check=check, timeout=30.0).stdout.strip()


def alarms(node: Node) -> str:
    """All that is said there, one a line."""
    said: list[str] = []
    for daemon in ("heartbeat", "ha_manager"):
        with contextlib.suppress(ControlError, OSError), Client(node.path(f"/run/{daemon}/control"), 1.0) as client:
            said += [str(text) for text in client.request("status").get("alarms", {}).values()]
    return "\n".join(said)


def until_said(duo: Duo, node: str, words: str, limit: float = _ALARM) -> None:
    duo.pair.until(lambda _: words in alarms(duo.pair.node(node)), limit, f"{node} to say {words!r}")


def until_logged(duo: Duo, node: str, words: str, since: int, limit: float = _ALARM) -> None:
    duo.pair.until(lambda _: words in duo.pair.node(node).log()[since:], limit, f"{node} to log {words!r}")


def looked(node: Node) -> int:
    """Up to which position of the log ha_manager has seen Postgres."""
    with Client(node.path("/run/ha_manager/control"), 5.0) as client:
        return int(client.request("show")["database"]["lsn"])


def serves(duo: Duo, since: float) -> None:
    for name in (QUICK, PLAIN):
        duo.writers.acknowledged_since(since, name, _SERVICE)


def process(node: Node, kind: str) -> int:
    """Process id, on this machine, of one of Postgres's own."""
    for pid, argv in node.processes().items():
        if argv and argv[0].startswith("postgres: ") and f"{kind} " in f"{argv[0]} ":
            return pid
    raise AssertionError(f"no {kind} on {node.name}")


@pytest.fixture(autouse=True)
def load(duo: Duo) -> Iterator[None]:
    """pgbench through the virtual IP, again and again: it ends with every connection that it loses."""
    active = duo.pair.node(duo.settle())
    if psql(active, "SELECT to_regclass('pgbench_accounts')") == "":
        active.run(["runuser", "-u", "postgres", "--", "pgbench", "-i", "-q", "-s", "2", "policy_server"], timeout=60.0)
        psql(active, "GRANT ALL ON ALL TABLES IN SCHEMA public TO ledger")
    words = f"pgbench -n -c 4 -R 200 -T 300 -h {VIP} -U ledger policy_server"
    script = f"while :; do {words} >/dev/null 2>&1; sleep 0.2; done"
    running = duo.pair.node("client").popen(["sh", "-c", script], start_new_session=True)
    yield
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    duo.pair.node("client").sh("pkill -x pgbench || true")
    duo.settle()


# --- what people do ---------------------------------------------------------------------------------------------------------


def test_alter_system_cannot_switch_the_data_fence_off(duo: Duo) -> None:
    active = duo.settle()
    node = duo.pair.node(active)
    epoch = duo.pair.status(active)["epoch"]
    psql(
        node,
        "ALTER SYSTEM SET synchronous_standby_names = ''; ALTER SYSTEM SET synchronous_commit = 'local'",
        database="postgres",
    )
    psql(node, "SELECT pg_reload_conf()")
    until_said(duo, active, "ALTER SYSTEM had set synchronous_standby_names, synchronous_commit")
    duo.pair.until(
        lambda _: psql(node, "SHOW synchronous_standby_names") == f'"ha_{other(active)}_{epoch[0]}"',
        10.0,
        "the names to be back",
    )
    serves(duo, boottime())
    assert duo.settle() == active and duo.pair.status(active)["epoch"] == epoch


def test_a_passive_promoted_by_hand_is_put_back(duo: Duo) -> None:
    active = duo.settle()
    passive = duo.pair.node(other(active))
    since = len(passive.log())
    psql(passive, "SELECT pg_promote(false)", check=False)
    until_logged(duo, passive.name, "somebody promoted the database of this passive server by hand", since)
    duo.settle()
    assert duo.pair.active() == active
    assert psql(passive, "SELECT pg_is_in_recovery()") == "t"


def test_a_postgres_that_is_stopped_by_hand_is_started_again(duo: Duo) -> None:
    for side in ("active", "passive"):
        active = duo.settle()
        node = duo.pair.node(active if side == "active" else other(active))
        at = boottime()
        stop = ["runuser", "-u", "postgres", "--", "/usr/lib/postgresql/15/bin/pg_ctl", "-D", _DATA, "-m", "fast", "-W", "stop"]
        node.run(stop, check=False, timeout=30.0)
        serves(duo, at)
        duo.until_whole()


def test_a_postgres_that_is_started_by_hand_is_ended(duo: Duo) -> None:
    """As pg_ctlcluster would, with the administrator's own files: nothing in it waits for the passive, so it must take no
    writes (the clients on the server itself try; what they are acknowledged the fixture looks for). Tried so often that it
    gets in between now and then.
    """
    active = duo.settle()
    node, at = duo.pair.node(active), boottime()
    config = "/etc/postgresql/15/main/postgresql.conf"
    start = f"/usr/lib/postgresql/15/bin/postgres -D {_DATA} -c config_file={config} 2>>/tmp/by-hand"
    stop = f"/usr/lib/postgresql/15/bin/pg_ctl -D {_DATA} -m fast -W stop"
    script = f"(for i in $(seq 60); do {start}; done) & for i in 1 2 3; do sleep 0.7; {stop}; done; wait"
    node.run(["runuser", "-u", "postgres", "--", "sh", "-c", script], check=False, timeout=60.0)
    said = node.path("/tmp/by-hand").read_text()
    print(f"started by hand: {said.count('lock file')} refused, {said.count('entering standby mode')} as a standby")
    assert "database system is ready to accept connections" not in said, "as a primary"
    duo.until_whole()
    serves(duo, at)


def test_a_backend_of_the_active_that_crashes(duo: Duo) -> None:
    """Postgres starts anew by itself, finds the fence against starts by hand, and is promoted: same server, same epoch."""
    active = duo.settle()
    node, at = duo.pair.node(active), boottime()
    epoch = duo.pair.status(active)["epoch"]
    os.kill(process(node, "walwriter"), signal.SIGKILL)
    serves(duo, at)
    assert duo.settle() == active and duo.pair.status(active)["epoch"] == epoch
    assert node.path(f"{_DATA}/standby.signal").exists()


def test_clients_that_take_every_connection(duo: Duo) -> None:
    """Superusers. The pair goes on, says who it is, and can still be failed over."""
    active = duo.settle()
    node = duo.pair.node(active)
    code = (
        "import psycopg, time, sys\nheld = []\n"
        "for _ in range(300):\n"
        "    try: held.append(psycopg.connect('host=/run/postgresql user=postgres dbname=postgres'))\n"
        "    except psycopg.OperationalError: break\n"
        "print(len(held), flush=True)\ntime.sleep(120)\n"
    )
    python = "/opt/ha-manager/venv/bin/python"
    taker = node.popen(["runuser", "-u", "postgres", "--", python, "-c", code], stdout=subprocess.PIPE, text=True)
    assert taker.stdout is not None and int(taker.stdout.readline()) > 50
    until_said(duo, active, "connections (most: postgres from this server)")
    assert duo.pair.active() == active
    duo.pair.ha(active, "failover")
    duo.settle()
    assert duo.pair.active() == other(active)
    taker.kill()
    taker.wait()


def test_slot_and_role_of_the_replication_are_made_again(duo: Duo) -> None:
    active = duo.settle()
    node = duo.pair.node(active)
    slot = f"ha_{other(active).replace('-', '_')}"
    psql(
        node,
        f"""SET synchronous_commit = 'local';
        DROP OWNED BY ha_replication; DROP ROLE ha_replication;
        SELECT pg_terminate_backend(active_pid), pg_sleep(0.5), pg_drop_replication_slot(slot_name) FROM pg_replication_slots
          WHERE slot_name = '{slot}';""",
        database="postgres",
    )
    # by the active's going solo, or by care, whichever comes first
    both = f"rolname = 'ha_replication' AND slot_name = '{slot}' AND active"
    again = f"SELECT count(*) FROM pg_roles, pg_replication_slots WHERE {both}"
    duo.pair.until(lambda _: psql(node, again) == "1", 30.0, "slot and role to be there again, and used")
    assert duo.settle() == active


# --- the passive ------------------------------------------------------------------------------------------------------------


def test_a_pause_of_replay_is_told_and_ends_with_a_takeover(duo: Duo) -> None:
    active = duo.settle()
    passive = duo.pair.node(other(active))
    psql(passive, "SELECT pg_wal_replay_pause()")
    until_said(duo, passive.name, "replay is paused by hand")
    duo.writers.steady()
    at = boottime()
    duo.pair.node(active).kill("heartbeat", signal.SIGSTOP)
    duo.pair.until(lambda seen: passive.name in seen.active, _SERVICE, f"{passive.name} to take over")
    serves(duo, at)
    duo.until_whole()


@pytest.mark.parametrize("kind", ["startup", "walreceiver"])
def test_a_stopped_process_of_the_passive_is_woken(duo: Duo, kind: str) -> None:
    active = duo.settle()
    passive = duo.pair.node(other(active))
    since = len(passive.log())
    os.kill(process(passive, kind), signal.SIGSTOP)
    until_logged(duo, passive.name, "in place: wake processes of Postgres that are stopped", since)
    duo.settle()
    assert duo.pair.active() == active
    duo.pair.until(lambda _: "replay has" not in alarms(passive) and "hangs" not in alarms(passive), 20.0, "the alarm to end")


def test_an_extension_that_only_the_active_has_is_told_on_both(duo: Duo) -> None:
    active = duo.settle()
    passive = duo.pair.node(other(active))
    control = passive.path("/usr/share/postgresql/15/extension/hstore.control")
    aside = control.with_name("hstore.aside")
    control.rename(aside)
    psql(duo.pair.node(active), "CREATE EXTENSION hstore")
    duo.pair.until(lambda _: "hstore" in psql(passive, "SELECT extname FROM pg_extension"), 10.0, "the passive to replay it")
    for name in SERVERS:
        duo.pair.node(name).kill("ha_manager", signal.SIGHUP)  # now, not within the next minute
        until_said(duo, name, f"extension hstore (used in policy_server) is not installed on {passive.name}")
    aside.rename(control)
    psql(duo.pair.node(active), "DROP EXTENSION hstore")


# --- damage -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["control file", "permissions"])
def test_an_active_whose_data_is_damaged_hands_over_and_is_copied_afresh(duo: Duo, damage: str) -> None:
    active = duo.settle()
    node = duo.pair.node(active)
    duo.pair.ha(active, "diverged", "remove", "--all", "--force")  # the small disk of the log holds three
    since, at = len(node.log()), boottime()
    if damage == "control file":
        node.kill("keeper", signal.SIGSTOP)
        node.path(f"{_DATA}/global/pg_control").write_bytes(os.urandom(8192))
        node.kill("postgres")
        node.kill("keeper", signal.SIGCONT)
    else:
        node.sh(f"chown root:root {_DATA}; chmod 700 {_DATA}")
    duo.pair.until(lambda seen: other(active) in seen.active, 60.0, f"{other(active)} to take over")
    serves(duo, at)
    duo.settle(120.0)
    assert duo.pair.active() == other(active)
    duo.until_whole()
    assert "the database was copied from" in node.log()[since:]


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is stopped"])
def test_a_passive_of_which_a_part_is_missing_is_copied_afresh_and_kept(duo: Duo, running: bool) -> None:
    active = duo.settle()
    passive = duo.pair.node(other(active))
    duo.pair.ha(passive.name, "diverged", "remove", "--all", "--force")  # the small disk of the log holds three
    since = len(passive.log())
    if not running:
        duo.pair.ha(passive.name, "stop")
    passive.sh(f"until rm -rf {_DATA}/base; do :; done")  # a Postgres that runs makes files meanwhile
    if not running:
        duo.pair.ha(passive.name, "start")
    until_logged(duo, passive.name, "the database here is damaged: base is missing", since, 60.0)
    duo.settle(120.0)
    assert duo.pair.active() == active
    until_logged(duo, passive.name, "the replaced database is kept in", since)


def test_a_passive_is_copied_afresh_on_purpose(duo: Duo) -> None:
    active = duo.settle()
    passive = duo.pair.node(other(active))
    duo.pair.ha(passive.name, "diverged", "remove", "--all", "--force")
    since = len(passive.log())
    refused = duo.pair.ha(active, "reseed", "--force", check=False)
    assert refused.code == 1 and "this server is active" in refused.stderr
    unasked = duo.pair.ha(passive.name, "reseed", check=False)
    assert unasked.code == 1 and "nobody could take over" in unasked.stdout and "not confirmed" in unasked.stderr
    assert "copying" not in passive.log()[since:]
    done = duo.pair.ha(passive.name, "reseed", "--force")
    assert f"this server follows {active} again" in done.stdout
    alone = [change["because"] for change in duo.pair.history(active) if "released by the passive" in change["because"]]
    assert "says that it is no longer in sync" in alone[-1], "commits did not have to wait first"
    until_logged(duo, passive.name, "the replaced database is kept in", since)
    again = duo.pair.ha(passive.name, "reseed", "--force")
    assert f"this server follows {active} again" in again.stdout, "at once: the active's new epoch is asked for"
    assert duo.settle() == active
    duo.pair.ha(passive.name, "diverged", "remove", "--all", "--force")


def test_write_errors_of_the_active_end_in_place_or_with_a_hand_over(duo: Duo) -> None:
    """A size limit makes every write of the log fail (EFBIG), as a broken disk does: Postgres gives up and starts anew."""
    active = duo.settle()
    node, at = duo.pair.node(active), boottime()
    since = len(node.log())
    # As their own user: to lower one's limits needs no privilege, to change another user's does, and not every machine has it.
    script = "for pid in $(pgrep -x postgres); do prlimit --pid=$pid --fsize=4096:4096; done"
    node.run(["runuser", "-u", "postgres", "--", "sh", "-c", script], check=False)
    until_logged(duo, active, "Postgres ended by itself", since)
    duo.until_whole()
    serves(duo, at)


# --- disks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/var/lib/postgresql", f"the disk of the database ({_DATA}) is full"),
        ("/srv/wal", "the disk of the log of changes (/srv/wal/"),
    ],
    ids=["database", "log"],
)
def test_a_full_disk_hands_over(duo: Duo, place: str, words: str) -> None:
    active = duo.settle()
    for name in SERVERS:
        duo.pair.ha(name, "diverged", "remove", "--all", "--force")  # the small disk of the log holds three
    node, at = duo.pair.node(active), boottime()
    assert node.sh(f"readlink {_DATA}/pg_wal").startswith("/srv/wal/"), "a copy keeps the log where it was"
    node.sh(f"dd if=/dev/zero of={place}/filler bs=1M 2>/dev/null || true", check=False)
    until_said(duo, active, words)
    duo.pair.until(lambda seen: other(active) in seen.active, 30.0, f"{other(active)} to take over")
    serves(duo, at)
    heir, told = other(active), f"{active} says: {words}"
    duo.pair.until(lambda _: told in duo.pair.ha(heir, "explain").stdout, _ALARM, f"{heir} to explain {told!r}")
    refused = duo.pair.ha(heir, "failover", check=False)
    assert refused.code == 1 and told in refused.stderr, refused
    node.sh(f"rm {place}/filler")
    duo.settle(120.0)


def test_log_kept_for_an_absent_passive_does_not_fill_the_disk_and_it_is_copied_afresh(duo: Duo) -> None:
    active = duo.settle()
    node, passive = duo.pair.node(active), duo.pair.node(other(active))
    duo.pair.ha(passive.name, "stop")
    since = len(node.log())
    for _ in range(40):
        written = int(psql(node, "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 16000000)) - '0/0'"))
        if "was given up" in alarms(node):
            break
        # no faster than it is looked at: a busy machine writes 16 MB in no time, and looks late
        duo.pair.until(lambda _, written=written: looked(node) >= written, _ALARM, "ha_manager to have seen that")  # type: ignore[misc]
    until_said(duo, active, "the log of changes that was kept back for the other server was given up")
    duo.pair.until(lambda _: "disk-log" not in alarms(node), 30.0, "room")
    serves(duo, boottime())
    duo.pair.ha(passive.name, "start")
    duo.settle(120.0)
    assert duo.pair.active() == active
    assert "is nearly full" in node.log()[since:] and "the database was copied from" in passive.log()


def test_a_disk_that_becomes_read_only_hands_over(duo: Duo) -> None:
    active = duo.settle()
    node, at = duo.pair.node(active), boottime()
    # The kernel does it by force after an error; by hand, what is open for writing stands against it.
    node.sh("mount --bind /var/lib/postgresql /var/lib/postgresql && mount -o remount,ro,bind /var/lib/postgresql")
    until_said(duo, active, "can't be written to")
    duo.pair.until(lambda seen: other(active) in seen.active, 30.0, f"{other(active)} to take over")
    serves(duo, at)
    node.sh("umount -l /var/lib/postgresql")
    duo.settle(120.0)


def test_a_full_disk_of_messages_touches_nothing(duo: Duo) -> None:
    active = duo.settle()
    node, epoch = duo.pair.node(active), duo.pair.status(active)["epoch"]
    node.sh("dd if=/dev/zero of=/var/log/postgresql/filler bs=1M count=16 2>/dev/null || true", check=False)
    until_said(duo, active, "the disk of Postgres's messages (/var/log/postgresql) is nearly full")
    psql(node, "SELECT pg_reload_conf()")
    node.kill("postgres")
    at = boottime()
    serves(duo, at)
    duo.until_whole()
    node.sh("rm /var/log/postgresql/filler")
    assert duo.pair.status(duo.pair.active())["epoch"][0] <= epoch[0] + 1
