"""What goes how, and rsync through the gate: real programs at both ends, with keys as two servers have them."""

from __future__ import annotations

import os
import re
import selectors
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ha_manager.files import gate, rsync, transport
from ha_manager.files.bulk import Transfer
from ha_manager.files.changes import Change
from ha_manager.files.copyplan import MANY, Ask, pass_of, plan
from ha_manager.files.items import Item, Kind, look, walk
from ha_manager.files.rsync import Pass
from ha_manager.site import ReplicatedFile
from runtime import sshd
from runtime.control import ControlServer, Request
from runtime.errors import HaError
from runtime.frames import CONTENT_LIMIT
from runtime.keys import Keys
from runtime.proctree import descendants
from tests.lab.postgres_pair import free_port, until

SMALL = Item(Kind.FILE, size=10)


def change(path: str, tree: bool = False) -> Change:
    return Change(path, 0.0, tree)


@pytest.mark.parametrize(
    "item, where",
    [
        (SMALL, "small"),
        (Item(Kind.ABSENT), "small"),
        (Item(Kind.LINK, target="x"), "small"),
        (Item(Kind.FOLDER), "small"),
        (Item(Kind.FILE, size=CONTENT_LIMIT + 1), "names"),
        (Item(Kind.FILE, size=10, links=2), "whole"),
        (Item(Kind.OTHER), ""),
    ],
)
def test_small_things_go_over_the_session_and_the_rest_by_rsync(item: Item, where: str) -> None:
    found = plan("/e", [(change("/e/x"), item)])
    assert [name for name in ("small", "names", "whole") if getattr(found, name)] == ([where] if where else [])


def test_many_at_once_go_by_rsync_and_a_file_entry_with_two_names_does_not() -> None:
    many = [(change(f"/e/{number}"), SMALL) for number in range(MANY + 1)]
    assert len(plan("/e", many[:-1]).small) == MANY
    assert len(plan("/e", many).names) == MANY + 1
    assert plan("/etc/f", [(change("/etc/f"), Item(Kind.FILE, size=1, links=2))]).small
    assert plan("/e", [(change("/e/t"), Item(Kind.FOLDER))], frozenset({"/e/t"})).names
    assert plan("/e", [(change("/e"), Item(Kind.FOLDER))], frozenset({"/e"})).whole


def test_passes_that_wait_become_one() -> None:
    entry = ReplicatedFile("/e", True, 60, "root:shadow")
    one, two = Ask(5.0, {"/e/a": change("/e/a")}), Ask(3.0, {"/e/b/c": change("/e/b/c")}, checksum=True)
    one.merge(two)
    assert (one.since, one.checksum) == (3.0, True)
    assert pass_of(entry, one, ["/e/b"], 7) == Pass("/e", "/e", ("a", "b/c"), "root:shadow", (), True, 7)
    one.merge(Ask(9.0, None))
    assert pass_of(entry, one, ["/e/b"], 0) == Pass("/e", "/e", (), "root:shadow", ("b",), True)
    large = Ask(1.0, {"/e": change("/e")})
    assert pass_of(entry, large, [], 0) == Pass("/e", "/", ("e",), "root:shadow", flush=True)


# --- the gate -----------------------------------------------------------------------------------------------------------------


def asked_of_the_gate(folder: Path, transfer: Pass) -> list[str]:
    """What rsync, as we call it, says to the other end."""
    spy = folder / "spy"
    spy.write_text('#!/bin/sh\nshift\necho "$*" >&2\nexit 9\n')
    spy.chmod(0o755)
    done = subprocess.run(
        rsync.argv(transfer, str(spy), gate.words((7, "vs-166"), "/x"), "peer"), input=b"", capture_output=True
    )
    (line,) = re.findall(r"^ha-files.*$", done.stderr.decode(), re.MULTILINE)
    return gate.parse(line)[2]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"names": ("a", "b")},
        {"owner": "www-data:www-data"},
        {"checksum": True, "bandwidth": 500},
        {"names": ("a",), "flush": True},
        {"exclude": ("inner", "odd[1]*")},
    ],
)
def test_the_gate_lets_through_what_the_sender_asks(tmp_path: Path, more: dict[str, object]) -> None:
    assert asked_of_the_gate(tmp_path, Pass("/e", str(tmp_path), **more))[0] == "--server"  # type: ignore[arg-type]


GOOD = "ha-files 7 vs-166 2f78 --server -lHogtpAXre.iLsfxCIvu . ."


@pytest.mark.parametrize(
    "command",
    [
        "", "id", "rsync --server . .", GOOD.replace("--server", "--server --sender"), GOOD.replace("ha-files", "sh"),
        GOOD.replace(" . .", " . /etc"), GOOD.replace(" . .", " . ../.."), GOOD.replace("--server", "--daemon"),
        GOOD.replace("-l", "-kl"), GOOD.replace("-l", "-Dl"),
        GOOD + " --log-file=/etc/cron.d/x", GOOD + " --temp-dir=/etc", GOOD + " --backup-dir=/etc",
        GOOD + " --copy-dest=/etc", GOOD + " --files-from=/etc/shadow", GOOD + " --partial-dir /etc", GOOD + "; id",
        GOOD + " --usermap=*:root,@/etc/shadow", GOOD.replace("2f78", "zz"), GOOD.replace("7", "x"),
    ],
)  # fmt: skip
def test_the_gate_lets_nothing_else_through(command: str) -> None:
    assert gate.parse(GOOD)[:2] == ((7, "vs-166"), "/x")
    with pytest.raises(HaError):
        gate.parse(command)


class Ends:
    """A passive with its sshd and a permission that can be withdrawn, and an active beside it."""

    def __init__(self, root: Path) -> None:
        self.root, self.staging, self.source = root, root / "staging", root / "source"
        for folder in (self.staging, self.source):
            folder.mkdir()
        keys = [Keys(root / name) for name in ("a", "b")]
        for own, name in zip(keys, ("vs-166", "vs-28"), strict=True):
            own.make(name)
        keys[0].accept(keys[1].show().line)
        keys[1].accept(keys[0].show().line)
        port = free_port()
        self.control = root / "control"
        transport.write(root / "active", keys[0], transport.Ends("127.0.0.1", "127.0.0.1", "vs-28", port), self.control)
        transport.write(root / "passive", keys[1], transport.Ends("127.0.0.1", "127.0.0.1", "vs-166", port), self.control)
        self.refusal = ""
        self.asked: list[Request] = []
        selector = selectors.DefaultSelector()
        server = ControlServer(self.control, selector, {"gate": self._gate})
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(selector, server))
        self._thread.start()
        Path("/run/sshd").mkdir(exist_ok=True)
        self.log = open(root / "log", "wb")  # noqa: SIM115
        self.sshd = subprocess.Popen(sshd.argv(root / "passive"), stderr=self.log)
        until(lambda: subprocess.run(["ss", "-Hltn", f"sport = {port}"], capture_output=True).stdout, 10.0, every=0.05)

    def _gate(self, request: Request) -> dict[str, str]:
        self.asked.append(request)
        if self.refusal:
            raise HaError(self.refusal)
        return {"staging": str(self.staging)}

    def _serve(self, selector: selectors.BaseSelector, server: ControlServer) -> None:
        while not self._end.is_set():
            for key, mask in selector.select(0.05):
                key.data(mask)
        server.close()

    def copy(self, **more: object) -> str:
        transfer = Pass("/t", str(self.source), **more)  # type: ignore[arg-type]
        return Transfer(self.root / "active").run(transfer, (7, "vs-166"), lambda *_: None)

    @property
    def there(self) -> Path:
        return Path(f"{self.staging}{self.source}")

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self.sshd.terminate()
        self.sshd.wait()
        self.log.close()


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    if os.geteuid() != 0:
        pytest.skip("sshd needs root")
    made = Ends(tmp_path_factory.mktemp("ends"))
    yield made
    made.close()


def test_a_tree_is_mirrored_with_all_that_belongs_to_it(ends: Ends) -> None:
    odd = os.fsdecode(b"a b\nc\xff")
    (ends.source / odd).mkdir()
    (ends.source / odd / odd).write_text("odd")
    (ends.source / "one").write_text("1")
    os.link(ends.source / "one", ends.source / "two")
    os.setxattr(ends.source / "one", "user.x", b"y")
    os.chmod(ends.source / "one", 0o4750)
    (ends.source / "link").symlink_to("/etc/passwd")
    os.mkfifo(ends.source / "pipe")
    os.mknod(ends.source / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    ends.there.mkdir(parents=True)
    (ends.there / "deleted").write_text("x")
    (ends.there / "inner").mkdir()
    (ends.there / "inner/kept").write_text("x")
    assert ends.copy(exclude=("inner",), owner="www-data:shadow") == ""
    assert sorted(os.listdir(ends.there)) == sorted([odd, "one", "two", "link", "inner"])
    found = look(f"{ends.there}/one")
    assert (found.mode, found.links, found.owner, found.xattrs) == (0o4750, 2, ("www-data", "shadow"), {"user.x": b"y"})
    assert (ends.there / odd / odd).read_text() == "odd" and os.readlink(ends.there / "link") == "/etc/passwd"


def test_names_alone_are_copied_or_removed(ends: Ends) -> None:
    (ends.source / "deep/er").mkdir(parents=True)
    (ends.source / "deep/er/f").write_text("1")
    (ends.source / "other").write_text("not named")
    assert ends.copy(names=("deep/er/f",)) == ""
    assert (ends.there / "deep/er/f").exists() and not (ends.there / "other").exists()
    (ends.source / "deep/er/f").unlink()
    assert ends.copy(names=("deep/er/f", "never")) == ""
    assert not (ends.there / "deep/er/f").exists()


def test_two_changes_of_the_same_size_within_one_second_are_both_copied(ends: Ends) -> None:
    for number in range(3):
        (ends.source / "same").write_text(str(number))
        assert ends.copy(names=("same",)) == ""
        assert (ends.there / "same").read_text() == str(number)


def test_the_passives_refusal_comes_back_in_words(ends: Ends) -> None:
    ends.refusal = "this server is active, not passive"
    try:
        assert ends.copy() == "ha_manager: this server is active, not passive"
    finally:
        ends.refusal = ""


def test_nothing_is_written_through_a_link(ends: Ends, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = Path(f"{ends.staging}/linked")
    place.symlink_to(outside)
    transfer = Pass("/linked/t", "/linked/t")
    assert "is a link" in Transfer(ends.root / "active").run(transfer, (7, "vs-166"), lambda *_: None)
    assert list(walk(str(outside))) == []


def test_another_key_than_the_pinned_one_is_refused_with_the_remedy(ends: Ends, tmp_path: Path) -> None:
    known = ends.root / "active/known"
    good = known.read_text()
    stranger = Keys(tmp_path / "stranger")
    line = stranger.make("vs-28").line.split()
    known.write_text(f"vs-28 ssh-ed25519 {line[3]}\n")
    try:
        assert "`ha keys accept --replace`" in ends.copy()
    finally:
        known.write_text(good)


def test_a_transfer_ends_when_the_permission_does_and_goes_on_where_it_was(ends: Ends) -> None:
    large = ends.source / "large"
    large.write_bytes(os.urandom(24 << 20))
    result: list[str] = []
    before = len(ends.asked)
    copying = threading.Thread(target=lambda: result.append(ends.copy(names=("large",), bandwidth=4096)))
    copying.start()
    until(lambda: len(ends.asked) > before, 10.0)
    time.sleep(1.5)
    ends.asked[-1].channel.send({"push": "stop"})
    copying.join(10.0)
    assert "takes no files any more" in result[0] and not (ends.there / "large").exists()
    assert ends.copy(names=("large",)) == ""
    assert (ends.there / "large").stat().st_size == 24 << 20


def test_a_transfer_that_is_stopped_at_either_end_is_woken(ends: Ends) -> None:
    (ends.source / "large").write_bytes(os.urandom(12 << 20))
    result: list[str] = []
    before = len(ends.asked)
    copying = threading.Thread(target=lambda: result.append(ends.copy(names=("large",), bandwidth=4096)))
    copying.start()
    until(lambda: len(ends.asked) > before, 10.0)
    gate_pid = int(ends.asked[-1].fields["pid"])
    until(lambda: bool(descendants(gate_pid)), 5.0)
    mine = [each for each in descendants(os.getpid()) if b"modify-window" in Path(f"/proc/{each.pid}/cmdline").read_bytes()]
    for each in (*mine, *descendants(gate_pid)):
        os.kill(each.pid, signal.SIGSTOP)
    copying.join(30.0)
    assert result == [""] and look(f"{ends.there}/large").size == 12 << 20
