"""Two real heartbeats whose servers lack something: room in /run, room in /var, what keeps a loop on time.

Promise tried here: none of it moves a role or ends a service by itself; nobody is told a role that isn't known; a server whose
/var is full takes over all the same. Source: design §4 rule 2, §5 ("never wrong after a crash").
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from heartbeat.reserve import SIZE
from tests.lab.two_heartbeats import Node, Pair, sh, two_heartbeats, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs namespaces")]

HA = Path(__file__).resolve().parents[2] / "packaging" / "bin" / "ha"
#: root without what real-time priority and locked memory need
UNPRIVILEGED = "setpriv --bounding-set -sys_nice,-ipc_lock prlimit --rtprio=0 --memlock=65536 "


@contextlib.contextmanager
def small_disks(pair: Pair) -> Iterator[None]:
    """/run and /var of each are file systems of their own, each of which 512 KiB fill."""
    folders = [node.folder / name for node in pair.nodes.values() for name in ("run", "state")]
    with contextlib.ExitStack() as stack:
        for folder in folders:
            folder.mkdir()
            sh(f"mount -t tmpfs -o size=512k tmpfs {folder}")
            stack.callback(sh, f"umount --lazy {folder}")
        yield


def fill(folder: Path) -> None:
    for number, size in enumerate((65536, 4096, 1)):
        with contextlib.suppress(OSError), open(folder / f"filler{number}", "wb", buffering=0) as file:
            while file.write(b"x" * size):
                pass


def make_room(folder: Path) -> None:
    for file in folder.glob("filler*"):
        file.unlink()


def am_i_active(node: Node) -> int:
    """Exit status of ``ha amIactive``: 0 active, 1 passive, 3 unknown."""
    root = node.folder / "root"
    if not root.exists():
        (root / "run").mkdir(parents=True)
        (root / "run" / "heartbeat").symlink_to(node.folder / "run")
        (root / "proc").symlink_to("/proc")
    return subprocess.run([HA, "amIactive"], env=os.environ | {"HA_TEST_ROOT": str(root)}, capture_output=True).returncode


@pytest.fixture
def pair() -> Iterator[Pair]:
    with two_heartbeats() as pair, small_disks(pair):
        for node in pair.nodes.values():
            node.wrapper = UNPRIVILEGED
        try:
            yield pair
        finally:
            pair.down()  # before its file systems go


def test_a_pair_that_lacks_everything(pair: Pair) -> None:
    active, passive = pair.settle()
    both = (active, passive)

    # no real-time priority, no locked memory: a note, and it is an ordinary process
    for node in both:
        assert node.process is not None and os.sched_getscheduler(node.process.pid) == os.SCHED_OTHER
        assert [text.split(" (")[0] for text in node.status()["refused_by_system"]] == [
            "memory can't be locked", "no real-time priority",
        ]  # fmt: skip
        assert "no real-time priority (Operation not permitted)" in node.log()

    # a full /run: nobody is told a role that may be over, and nothing else happens
    assert [am_i_active(node) for node in both] == [0, 1]
    for node in both:
        fill(node.folder / "run")
    for node in both:
        wait_for("role unknown", lambda node=node: am_i_active(node) == 3)  # type: ignore[misc]
        wait_for("the alarm", lambda node=node: "role-file" in node.status()["alarms"])  # type: ignore[misc]
    assert active.is_(phase="active", epoch=[1, active.name], solo=False) and passive.is_(phase="passive", fit=True)
    for node in both:
        make_room(node.folder / "run")
        wait_for("role known", lambda node=node: am_i_active(node) == (0 if node is active else 1))  # type: ignore[misc]
        wait_for("the end of the alarm", lambda node=node: "role-file" not in node.status()["alarms"])  # type: ignore[misc]

    # a full /var: the takeover is written with the room that was kept for it
    for node in both:
        wait_for("the reserve", (node.folder / "state" / "reserve").exists)
        fill(node.folder / "state")
    active.kill()
    wait_for("taken over", lambda: passive.is_(phase="active", epoch=[2, passive.name]))
    assert '"vs-28"' in (passive.folder / "state" / "record").read_text()
    assert not passive.status()["alarms"].keys() & {"disk", "state-folder"}
    # one without that room starts all the same, and says so
    (active.folder / "state" / "reserve").unlink()
    fill(active.folder / "state")
    active.start()
    wait_for("the alarm", lambda: "state-folder" in active.status().get("alarms", {}))
    make_room(active.folder / "state")
    wait_for("in sync", lambda: active.is_(phase="passive", fit=True, in_sync=True))
    wait_for("the end of the alarm", lambda: "state-folder" not in active.status()["alarms"], 15)
    assert (active.folder / "state" / "reserve").stat().st_size == SIZE


@contextlib.contextmanager
def freezable(node: Node) -> Iterator[Path]:
    """Its state on a file system that can be made to hang: what writes there waits in the kernel, and can't be ended."""
    image, state = node.folder / "image", node.folder / "state"
    sh(f"truncate -s 16M {image} && mkfs.ext4 -q {image} && mount -o loop {image} {state}")
    try:
        yield state
    finally:
        subprocess.run(["fsfreeze", "-u", state], capture_output=True)
        sh(f"umount --lazy {state}")


@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices")
def test_a_disk_that_hangs_when_the_epoch_is_to_be_written(pair: Pair) -> None:
    """The successor in a planned failover gives up, and the one that let go for it serves again."""
    heir = pair.nodes["vs-28"]
    with freezable(heir) as state:
        active, passive = pair.settle()
        assert passive is heir
        sh(f"fsfreeze -f {state}")
        active.ask("standby", by="test")
        wait_for("announced", lambda: passive.is_(phase="opening"))
        assert passive.has_vip()
        wait_for("given up", lambda: passive.is_(phase="passive"), 8.0)
        assert not passive.has_vip() and "the disk of the state does not answer" in passive.log()
        wait_for("the other one serves again", lambda: active.is_(phase="active") and active.has_vip(), 20.0)
        assert "silent" in passive.status()["alarms"]
        sh(f"fsfreeze -u {state}")
        wait_for("in sync again", lambda: passive.is_(phase="passive", fit=True, in_sync=True), 15.0)
        assert active.is_(phase="active") and '"tentative": false' in (state / "record").read_text()
