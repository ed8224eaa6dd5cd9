"""Replicated files on two real servers: copied whatever is done to them, in place after a power cut, never backwards.

Promise: after each test both servers hold the same; what is compared is names (any bytes), kinds, modes, owners, times and
content. Source: issue "Replicated files".
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.pair import MODULE_XML, SERVERS, module_xml, other
from bench.writers import PLAIN
from tests.lab.test_pair_scenarios import eventually

if TYPE_CHECKING:
    from lab.machine import Node
    from tests.lab.pairing import Duo

pytestmark = pytest.mark.lab
pytest_plugins = ["tests.lab.pairing"]

STAGING = "/opt/finjan/configuration/ha"
_FILES = """<file inotify="1" name="/srv/tree"/>
      <file inotify="0" interval="2" name="/srv/timed" permissions="www-data:shadow"/>
    </files_to_replicate>"""
#: everything below a directory, one line each that says all of it
_LIST = r"""cd "$1" || exit
find . -mindepth 1 ! -type p ! -type s ! -type c -printf '%P\0%y %m %u:%g %l\0' | sort -z | sha256sum
find . -type f -printf '%P\0%T@ %n\0' | sort -z | sha256sum
find . -type f -print0 | sort -z | xargs -0r sha256sum -z | sha256sum"""


@pytest.fixture
def replicated(duo: Duo) -> Iterator[Duo]:
    """With entries that are watched, and timed, in module.xml on both: read at SIGHUP."""
    xml = module_xml().replace("</files_to_replicate>", _FILES)
    for name in SERVERS:
        node = duo.pair.node(name)
        if node.read(MODULE_XML) != xml:
            node.write(MODULE_XML, xml)
            node.kill("ha_manager", signal.SIGHUP)
    duo.settle()
    yield duo


def listing(node: Node, folder: str) -> str:
    return node.run(["/bin/sh", "-c", _LIST, "sh", folder], check=False).stdout


def same(duo: Duo, active: str, folder: str = "/srv/tree") -> bool:
    return listing(duo.pair.node(active), folder) == listing(duo.pair.node(other(active)), STAGING + folder)


def told(duo: Duo, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(duo.pair.ha(name, "files", "--json", check=False).stdout or "{}")
    return found


def copied(duo: Duo, active: str) -> bool:
    found = told(duo, active)
    return bool(found.get("connected")) and all(each["done"] and not each["behind"] for each in found["entries"])


#: what people and programs do to files; each is run in /srv/tree
_DEEDS = r"""
mkdir -p d/e/f; echo 1 > d/e/f/g; cp -a d copy; mv copy moved; rm -r d; mkdir d; cp -r moved/e d/new
printf x > "$(printf 'a b\nc\377\t')"; mkdir "$(printf 'dir \377\n')"; echo 1 > "$(printf 'dir \377\n')/-rf"
ln -s "$(printf 'x\377')" link
seq 1000 > lines; sed -i s/7/8/ lines; perl -pi -e 's/8/9/' lines
install -m 640 -o www-data lines installed; cp lines installed
python3 -c 'import os; f = open("t", "w"); f.write("new"); f.close(); os.replace("t", "lines")'
: > grown; for n in 1 2 3; do echo $n >> grown; sleep 0.05; done; truncate -s 1 grown
chmod 4711 grown; chown www-data:shadow grown; chmod 4711 grown
ln lines hard; python3 -c 'import os; os.setxattr("lines", "user.a", b"b")'; touch -d 2001-02-03 installed; mkfifo pipe; rm pipe
tar -cf - -C /usr/share/doc/bash . | tar -xf -
mkdir twice; rmdir twice; mkdir twice; echo 1 > twice/1; mv twice once; mv once twice
(exec 3> held; echo open >&3; mv held renamed; echo more >&3)
"""
#: and what editors, daemons and packers do, besides: vim, emacs, rsync --inplace, logrotate's copytruncate, sqlite, mmap, …
_TOOLS = r"""
seq 50 > text; mv text text~; seq 60 > text; rm text~
cp -p text \#text\#; seq 70 > .text.tmp; chmod 640 .text.tmp; mv -f .text.tmp text; rm \#text\#
rsync -a --inplace --no-whole-file lines text; cp -p lines preserved; cp -f --remove-destination lines unlinked
echo log > log; ln -sf log current; ln -sfn twice current; cp log log.1; truncate -s 0 log; echo again >> log
mv log log.2; echo new > log; gzip -kf log.2; sed -i.bak s/1/one/ text
dd if=/dev/urandom of=sparse bs=1k count=1 seek=900 2>/dev/null; fallocate -l 300k allocated; fallocate -p -o 0 -l 64k allocated
python3 -c 'import mmap; f = open("sparse", "r+b"); m = mmap.mmap(f.fileno(), 0); m[:4] = b"mmap"; m.flush()'; touch sparse
python3 - <<'END'
import os, socket, sqlite3
base = sqlite3.connect("base.sqlite")
base.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
base.commit(); base.close()
socket.socket(socket.AF_UNIX).bind("socket"); os.mkfifo("fifo")
os.mknod("zero", 0o600 | 0o020000, os.makedev(1, 5))
deep = "/".join(["deep" * 10] * 30)
os.makedirs(deep); open(f"{deep}/end", "w").write("end")
open("n" * 255, "w").write("longest"); os.mkdir("m" * 255); open("m" * 255 + "/" + "é" * 127, "w").write("x")
os.setxattr("text", "user.only", b"x" * 300); os.utime("text", (1, 2)); os.utime("lines", (2**32, 2**32))
open("turns", "w").close(); os.unlink("turns"); os.makedirs("turns/inside"); os.rmdir("turns/inside"); os.rmdir("turns")
os.symlink("nowhere", "turns"); os.unlink("turns"); open("turns", "w").write("file")
END
chown -R www-data moved; chmod -R go-rwx moved; setfacl -m u:www-data:r text 2>/dev/null || true
mkdir -p /srv/outside/sub; echo in > /srv/outside/sub/f; mv /srv/outside/sub inside
mv once /srv/outside/; mv /srv/outside/once back
ln lines a-second-name; ln lines moved/a-third; rm -f hard; tar -czf packed.tgz moved twice; tar -xzf packed.tgz -C back
chattr +i preserved 2>/dev/null || true; chattr -i preserved 2>/dev/null || true
"""
#: goes on writing to files that it never closes
_HOLDS = """import time
with open("/srv/tree/open", "w", buffering=1) as log, open("/srv/tree/quiet", "w", buffering=1) as quiet:
    print("written once", file=quiet)
    while True:
        print("and on", file=log)
        time.sleep(0.05)
"""


def test_whatever_is_done_to_a_tree_is_on_the_passive_and_in_ha_files(replicated: Duo) -> None:
    active = replicated.pair.active()
    node, passive = replicated.pair.node(active), replicated.pair.node(other(active))
    eventually(lambda: copied(replicated, active), "everything is copied once", 20.0)
    node.sh(f"mkdir -p /srv/tree && cd /srv/tree\n{_DEEDS}")  # it did not exist before
    eventually(lambda: same(replicated, active), "the tree is the same", 15.0)
    node.sh(f"cd /srv/tree\n{_TOOLS}")
    eventually(lambda: same(replicated, active), "the tree is the same after all kinds of tools", 20.0)
    assert not list(passive.path(f"{STAGING}/srv/tree").glob("fifo")) and not passive.path(f"{STAGING}/srv/tree/zero").exists()
    holding = node.popen(["python3", "-c", _HOLDS])
    staged = passive.path(f"{STAGING}/srv/tree")
    eventually(
        lambda: (staged / "quiet").exists() and (staged / "quiet").read_text() == "written once\n", "a file never closed", 10.0
    )
    eventually(
        lambda: (staged / "open").exists() and len((staged / "open").read_text()) > 100, "one that grows without end", 10.0
    )
    holding.terminate()
    eventually(lambda: same(replicated, active), "the tree is the same when nobody writes any more", 15.0)
    node.sh("cd /srv; mv tree old; mkdir tree; cp -a old/moved old/lines tree; echo 1 > timed")
    eventually(lambda: same(replicated, active), "the tree that took its place is the same", 15.0)
    eventually(lambda: passive.path(f"{STAGING}/srv/timed").exists(), "the timed file", 10.0)
    assert passive.sh(f"stat -c '%U:%G' {STAGING}/srv/timed").strip() == "www-data:shadow"
    assert passive.sh(f"stat -c '%a %U' {STAGING}").strip() == "700 root"
    assert "/srv/tree" in replicated.pair.ha(active, "files").stdout
    passive.sh(f"rm -r {STAGING}/srv/tree; echo damaged > {STAGING}/etc/shadow")
    replicated.pair.ha(active, "files", "sync")
    assert same(replicated, active) and passive.read(f"{STAGING}/etc/shadow") == node.read("/etc/shadow")
    eventually(lambda: "files=copied" in node.read("/etc/ha_manager/ha_manager_status"), "the status file says so", 5.0)
    assert "files=receiving" in passive.read("/etc/ha_manager/ha_manager_status")
    for each in (node, passive):  # it is started again, and told what there is to do
        os.kill(next(pid for pid, argv in each.processes().items() if "ha_manager.files.daemon" in argv), signal.SIGKILL)
    node.sh("echo changed meanwhile > /srv/tree/later")
    eventually(lambda: same(replicated, active), "the tree is the same after both processes were killed", 15.0)


_BURST = """import os
os.makedirs("/srv/tree/many")
for n in range(100000):
    if n < 5000 or n >= 99000:
        with open(f"/srv/tree/many/{n % 5000}", "w") as file:
            file.write(str(n))
    os.utime(f"/srv/tree/many/{n % 5000}", (n, n))
"""


def test_a_hundred_thousand_changes_in_a_burst_are_all_there(replicated: Duo) -> None:
    active = replicated.pair.active()
    eventually(lambda: copied(replicated, active), "everything is copied once", 20.0)
    replicated.pair.node(active).run(["python3", "-c", _BURST], timeout=60.0)
    eventually(lambda: same(replicated, active), "all are there", 60.0)
    eventually(lambda: copied(replicated, active), "nothing is behind", 20.0)
    replicated.pair.node(active).sh("rm -r /srv/tree/many")
    eventually(lambda: same(replicated, active), "they are gone", 20.0)


def test_a_power_cut_right_after_usermod_and_in_the_middle_of_a_large_transfer(replicated: Duo) -> None:
    pair, lab = replicated.pair, replicated.lab
    old = pair.active()
    new = other(old)
    a, b = pair.node(old), pair.node(new)
    eventually(lambda: copied(replicated, old), "everything is copied once", 20.0)
    a.sh("mkdir -p /srv/tree; echo whole > /srv/tree/large; sleep 0.5")
    eventually(lambda: same(replicated, old), "the tree is the same", 10.0)
    noise = "head -c 1G /dev/zero | openssl enc -aes-128-ctr -pass pass:x -nosalt 2>/dev/null"
    a.sh(f"{noise} > /srv/large && mv /srv/large /srv/tree/large")
    eventually(lambda: size_below(b, f"{STAGING}/srv/tree") > 100 << 20, "a tenth of it has come", 30.0)
    secret = f"$6$salt${time.time_ns()}"
    a.run(["usermod", "-p", secret, "root"])
    eventually(lambda: secret in b.read(f"{STAGING}/etc/shadow"), "the password is staged, beside the large transfer", 2.0)
    lab.power_off(old)
    replicated.pair.until(lambda seen: seen.active == [new], 20.0, f"{new} to take over")
    # While the disk was busy with the file, its insert may have reached the old server and waited there: plain libpq then waits
    # for an answer that nobody will ever send.
    replicated.writers.start_client(PLAIN)
    eventually(lambda: secret in b.read("/etc/shadow"), "the password is in force", 20.0)
    eventually(lambda: b.path("/srv/tree/large").exists(), "the tree is in place", 20.0)
    assert b.read("/srv/tree/large") == "whole\n" and b.read(f"{STAGING}/srv/tree/large") == "whole\n"
    assert told(replicated, new)["placed"]["wrong"] == []
    label = pair.ha(new, "files", "restore").stdout.split()[0]
    assert b.path(f"/var/lib/ha_manager/replaced/{label}/etc/shadow").exists()

    b.run(["usermod", "-p", f"{secret}2", "root"])
    lab.power_on(old)
    replicated.settle()
    eventually(lambda: copied(replicated, new) and same(replicated, new), "the new active's files are on the old one", 60.0)
    # Nothing came from the old active, nothing was touched on it
    assert f"{secret}2" in b.read("/etc/shadow") and f"{secret}2" in a.read(f"{STAGING}/etc/shadow")
    assert f"{secret}2" not in a.read("/etc/shadow") and a.path("/srv/tree/large").stat().st_size == 1 << 30
    a.sh("rm /srv/tree/large")


def size_below(node: Node, folder: str) -> int:
    return int(node.sh(f"du -sb {folder} | cut -f1", check=False).strip() or 0)


def test_what_stands_in_the_way_is_told_and_overcome(replicated: Duo) -> None:
    pair = replicated.pair
    old = pair.active()
    a, b = pair.node(old), pair.node(other(old))
    eventually(lambda: copied(replicated, old), "everything is copied once", 20.0)
    # A root account without a password, and room for nothing
    b.sh("passwd -l root")
    a.sh("mkdir -p /srv/tree; head -c 3M /dev/urandom > /srv/tree/by-rsync; echo 1 > /srv/tree/small")
    eventually(lambda: same(replicated, old), "rsync gets in where root is locked", 30.0)
    b.sh("passwd -u root", check=False)
    b.sh(f"mount -t tmpfs -o size=1m tmpfs {STAGING}")
    a.sh("head -c 2M /dev/urandom > /srv/tree/large; head -c 200k /dev/urandom > /srv/tree/small")
    eventually(lambda: "No space" in alarms(replicated, old), "the full disk is told", 20.0)
    b.sh(f"umount -l {STAGING}; mount --bind -o ro {STAGING} {STAGING}; mount -o remount,bind,ro {STAGING}")
    a.sh("echo changed > /srv/tree/small")
    eventually(lambda: "Read-only" in alarms(replicated, old), "the read-only disk is told", 20.0)
    b.sh(f"umount -l {STAGING}")
    eventually(lambda: same(replicated, old) and not alarms(replicated, old), "all is there when there is room again", 60.0)
    # Slowly, and something small beside it
    a.sh("printf '[files]\\nbandwidth = 2048\\n' >> /etc/ha_manager/ha_manager.conf")
    a.kill("ha_manager", signal.SIGHUP)
    eventually(lambda: copied(replicated, old), "everything is copied again", 20.0)
    a.sh("head -c 16M /dev/urandom > /srv/slow; mv /srv/slow /srv/tree/slow")
    eventually(lambda: any("--bwlimit=2048" in argv for argv in a.processes().values()), "a transfer that is held back", 10.0)
    a.sh("echo beside > /srv/tree/small")
    eventually(lambda: b.read(f"{STAGING}/srv/tree/small") == "beside\n", "a small file beside it", 2.0)
    assert not b.path(f"{STAGING}/srv/tree/slow").exists()
    # Either end of it stopped, then the whole process
    for node in (a, b):
        for pid, argv in node.processes().items():
            if argv and argv[0].endswith("rsync"):
                os.kill(pid, signal.SIGSTOP)
    eventually(lambda: same(replicated, old), "the transfer goes on", 60.0)
    for node in (a, b):
        os.kill(next(pid for pid, argv in node.processes().items() if "ha_manager.files.daemon" in argv), signal.SIGSTOP)
    a.sh("echo stopped > /srv/tree/small")
    eventually(lambda: same(replicated, old), "both processes are woken", 20.0)
    a.sh("sed -i '/files/,$d' /etc/ha_manager/ha_manager.conf")
    a.kill("ha_manager", signal.SIGHUP)
    eventually(lambda: copied(replicated, old), "everything is copied again", 20.0)


def test_a_planned_failover_takes_along_what_waits(replicated: Duo) -> None:
    """What would have waited for its interval, and something larger."""
    pair = replicated.pair
    old = pair.active()
    a, b = pair.node(old), pair.node(other(old))
    eventually(lambda: copied(replicated, old), "everything is copied once", 20.0)
    a.sh(
        "mkdir -p /srv/tree; echo now > /srv/timed; head -c 20M /dev/urandom > /srv/tree/slow; ln -f /srv/tree/slow /srv/tree/2"
    )
    said = pair.ha(old, "failover").stdout
    pair.until(lambda seen: seen.active == [other(old)], 20.0, "the other one to be active")
    eventually(lambda: told(replicated, other(old)).get("placed", {}).get("epoch", [0])[0] > 0, "all is in place", 20.0)
    assert b.read("/srv/timed") == "now\n" and "may lack" not in said
    assert listing(a, "/srv/tree") == listing(b, "/srv/tree"), said
    replicated.settle()


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def alarms(duo: Duo, name: str) -> str:
    return str(told(duo, name).get("alarms", {}).get("files", ""))
