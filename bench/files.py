"""How fast replicated files are on the passive, beside lsyncd in the same lab and run.

    sudo .venv/bin/python -m bench.files --json FILE [--changes 60] [--without-lsyncd]

Promise: every figure is taken from outside of both programs: a file is changed on the active (written beside its place,
flushed, renamed), and read on the passive, through its root, until the bytes are the same. A burst counts from the first write
to the last of its files being right there; each is written beside its place and renamed, as tar and rsync do (no fsync), in a
second burst flushed as well (to the passive's disk, as it is the same). lsyncd (Debian's) copies a tree of its own between the
same two servers, to an rsync daemon: with no delay, the fastest that its settings allow, and with its default delay. The bulk
copy is compared with `rsync -aHAX` over the same kind of ssh connection. Source: issue "Replicated files" ("Held to").
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click

from bench.pair import ACTIVE, MODULE_XML, PASSIVE, SERVERS, Pair, module_xml
from bench.stage import need_root
from lab.api import Lab

STAGING = "/opt/finjan/configuration/ha"
_ENTRIES = """<file inotify="1" name="/srv/tree"/>
      <file inotify="0" interval="86400" name="/srv/archive"/>
    </files_to_replicate>"""
_PYTHON = "/opt/ha-manager/venv/bin/python"
_LIMIT = 120.0
_MANY_FILES = """import os, sys
root, files = sys.argv[1], int(sys.argv[2])
for n in range(files):
    folder = f"{root}/{n // 20}"
    if n % 20 == 0:
        os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/{n}", "w") as f:
        f.write(str(n) * 8)
"""
_WATCH = """import resource, sys, time
from ha_manager.files.watching import Watcher
class Nobody:
    def written(self, *a): pass
    moved = modified = full = unwatched = written
watcher = Watcher(Nobody())
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before, began = rss(), time.monotonic()
watcher.watch([sys.argv[1]])
print(time.monotonic() - began, (rss() - before) / 1e6, len(watcher))
"""
_LSYNCD = """settings { nodaemon = true, statusFile = "/tmp/lsyncd.status", inotifyMode = "CloseWrite or Modify" }
sync { %s, source = "/srv/lsync", %s rsync = { archive = true%s } }
"""
_RSYNCD = "use chroot = no\n[t]\npath = /srv/lsync\nread only = no\nuid = root\ngid = root\n"
_SSHD = """ListenAddress 192.168.120.28:2222
HostKey /root/bench/host
AuthorizedKeysFile /root/bench/key.pub
PermitRootLogin yes
UsePAM no
StrictModes no
PidFile none
"""
_SSH = (
    "ssh -p 2222 -i /root/bench/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    " -o Ciphers=aes128-gcm@openssh.com"
)


class Files:
    def __init__(self, pair: Pair, changes: int, say: Callable[[str], None]) -> None:
        self._pair, self._changes, self._say = pair, changes, say
        self.active, self.passive = pair.node(ACTIVE), pair.node(PASSIVE)
        self.figures: dict[str, Any] = {}

    def set_up(self) -> None:
        self._pair.install()
        for name in SERVERS:
            self._pair.node(name).write(MODULE_XML, module_xml().replace("</files_to_replicate>", _ENTRIES))
        self._many("/srv/tree", 10_000)
        self.active.sh("mkdir -p /srv/archive")
        self._pair.start()
        self._until(lambda: self._count(f"{STAGING}/srv/tree") == 10_000, "the tree of 10,000 to be there")

    def _many(self, root: str, files: int) -> None:
        self.active.run(["python3", "-c", _MANY_FILES, root, str(files)], timeout=_LIMIT)

    def _count(self, folder: str) -> int:
        return int(self.passive.sh(f"find {folder} -type f 2>/dev/null | wc -l").strip() or 0)

    def _until(self, true: Callable[[], bool], what: str, limit: float = _LIMIT, every: float = 0.1) -> None:
        end = time.monotonic() + limit
        while not true():
            if time.monotonic() > end:
                raise SystemExit(f"not within {limit:g} s: {what}")
            time.sleep(every)

    # --- one change -----------------------------------------------------------------------------------------------------------

    def one_change(self, source: str, target: str, changes: int, pause: float, limit: float) -> dict[str, float]:
        """Milliseconds from the rename on the active to the same bytes on the passive."""
        here, there = self.active.path(source), self.passive.path(target)
        took = []
        for number in range(changes):
            content = (f"{number} {time.time_ns()} " * 400).encode()[:4096]
            began = self._replace(here / f"{number % 50}", content)
            name = there / f"{number % 50}"
            self._until(lambda name=name, content=content: _content(name) == content, source, limit, 0.0005)  # type: ignore[misc]
            took.append((time.monotonic() - began) * 1000)
            time.sleep(pause)
        return {"p50": round(median(took), 1), "p95": round(quantiles(took, n=20)[-1], 1), "most": round(max(took), 1)}

    def _replace(self, path: Path, content: bytes) -> float:
        """From this machine, in the active's file system: its kernel tells the active's watchers all the same."""
        new = path.with_name(f".{path.name}.new")
        self._write(new, content, True)
        began = time.monotonic()
        new.rename(path)
        return began

    def ours(self) -> None:
        self.active.sh("mkdir -p /srv/tree/one")
        time.sleep(1.0)
        self.figures["one_change_ms"] = {
            "ours": self.one_change("/srv/tree/one", f"{STAGING}/srv/tree/one", self._changes, 0.05, 20)
        }
        self._say(f"ours, one change: {self.figures['one_change_ms']['ours']} ms")

    def burst(self, files: int = 1000, turns: int = 5) -> None:
        """All of them new, then all of them replaced."""
        self.active.sh("mkdir -p /srv/tree/burst")
        took: dict[bool, list[float]] = {}
        for flush in (False, True):
            time.sleep(2.0)
            took[flush] = [self._one_burst(files, flush) for _ in range(turns)]
        self.figures["burst_s"] = round(median(took[False]), 2)
        self.figures["burst"] = {"plain": took[False], "flushed": took[True]}
        self._say(f"{files} files changed at once: {self.figures['burst']} s")

    def _one_burst(self, files: int, flush: bool) -> float:
        here, there = self.active.path("/srv/tree/burst"), self.passive.path(f"{STAGING}/srv/tree/burst")
        contents = {str(number): os.urandom(4096) for number in range(files)}
        began = time.monotonic()
        for name, content in contents.items():
            self._write(here / ".new", content, flush)
            os.rename(here / ".new", here / name)
        self._until(lambda: self._arrived(there, contents), f"{files} files to be there", every=0.005)
        took = round(time.monotonic() - began, 2)
        time.sleep(1.0)
        return took

    def _arrived(self, there: Path, left: dict[str, bytes]) -> bool:
        """Takes out what has come, until it meets one that has not."""
        for name in list(left):
            if _content(there / name) != left[name]:
                return False
            del left[name]
        return True

    def _write(self, path: Path, content: bytes, flush: bool) -> None:
        with open(path, "wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())

    def missed(self, tries: int = 200) -> None:
        """Two contents of the same size within a second; the second must be there."""
        self.active.sh("mkdir -p /srv/tree/twice")
        time.sleep(1.0)
        here, there = self.active.path("/srv/tree/twice"), self.passive.path(f"{STAGING}/srv/tree/twice")
        contents = {}
        for number in range(tries):
            for half in ("first", "later"):
                contents[number] = f"{half} {number:06d}\n".encode()
                self._replace(here / f"{number}", contents[number])
                time.sleep(0.02)
        time.sleep(5.0)
        self.figures["missed"] = sum(_content(there / f"{number}") != content for number, content in contents.items())
        self._say(f"two changes of the same size within one second: {self.figures['missed']} of {tries} missed")

    # --- watching, bulk -------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        self._many("/srv/hundred", 100_000)
        said = self.active.run([_PYTHON, "-c", _WATCH, "/srv/hundred"], timeout=_LIMIT).stdout.split()
        self.figures["watch"] = {"start_s": round(float(said[0]), 3), "rss_mb": round(float(said[1]), 1)}
        self._say(f"100,000 files: watching starts in {self.figures['watch']}")

    def bulk(self, turns: int = 5) -> None:
        """1 GB in files of 8 MB: `ha files sync` and bare rsync in turn, into emptied directories."""
        self.active.sh(
            "for n in $(seq 128); do head -c 8M /dev/urandom > /srv/archive/$n; done; mkdir -p /root/bench; rm -f /root/bench/*"
            "; for name in key host; do ssh-keygen -q -t ed25519 -N '' -f /root/bench/$name; done",
            timeout=_LIMIT,
        )
        for name in ("key.pub", "host"):
            self.passive.write(f"/root/bench/{name}", self.active.read(f"/root/bench/{name}"), 0o600)
        self.passive.write("/root/bench/sshd_config", _SSHD)
        sshd = self.passive.popen(["/usr/sbin/sshd", "-D", "-f", "/root/bench/sshd_config"])
        self._pair.ha(ACTIVE, "files", "sync", "/srv/archive", timeout=_LIMIT)
        ours, bare = [], []
        try:
            for _ in range(turns):
                self.passive.sh(f"rm -rf /srv/bare {STAGING}/srv/archive; sync")
                began = time.monotonic()
                argv = ["rsync", "-aHAX", "-e", _SSH, "/srv/archive/", "root@192.168.120.28:/srv/bare/"]
                self.active.run(argv, timeout=_LIMIT)
                bare.append(time.monotonic() - began)
                self.passive.sh("rm -rf /srv/bare; sync")
                began = time.monotonic()
                self._pair.ha(ACTIVE, "files", "sync", "/srv/archive", timeout=_LIMIT)
                ours.append(time.monotonic() - began)
        finally:
            sshd.terminate()
        self.figures["bulk_ratio"] = round(median(ours) / median(bare), 2)
        self.figures["bulk_s"] = {"ours": [round(x, 2) for x in ours], "rsync": [round(x, 2) for x in bare]}
        self._say(f"1 GB: {self.figures['bulk_s']}")

    # --- lsyncd ---------------------------------------------------------------------------------------------------------------

    def lsyncd(self) -> None:
        self._many("/srv/lsync", 10_000)
        self.active.sh("mkdir -p /srv/lsync/one")
        self.passive.write("/etc/rsyncd.conf", _RSYNCD)
        self.passive.sh("mkdir -p /srv/lsync; rsync --daemon --no-detach >/dev/null 2>&1 &")
        tuned = _LSYNCD % ("default.rsync", 'target = "192.168.120.28::t", delay = 0,', "")
        default = _LSYNCD % ("default.rsync", 'target = "192.168.120.28::t",', "")
        found = {}
        for name, text, changes, pause in (("tuned", tuned, self._changes, 0.3), ("default", default, 3, 0.0)):
            self.active.write("/root/lsyncd.lua", text)
            running = self.active.popen(["lsyncd", "/root/lsyncd.lua"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                self._until(lambda: self._count("/srv/lsync") >= 10_000, "lsyncd's first pass")
                time.sleep(3.0)
                found[name] = self.one_change("/srv/lsync/one", "/srv/lsync/one", changes, pause, 60)
            finally:
                running.send_signal(signal.SIGTERM)
                running.wait()
            self._say(f"lsyncd {name}: {found[name]} ms")
        self.figures.setdefault("one_change_ms", {})
        self.figures["one_change_ms"] |= {"lsyncd": found["tuned"], "lsyncd_default": found["default"]}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@click.command()
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--changes", default=60, show_default=True)
@click.option("--without-lsyncd", is_flag=True, help="Ours alone: needs no further package.")
@click.option("--only", type=click.Choice(["ours", "burst", "missed", "watch", "bulk", "lsyncd"]), help="One part.")
def main(file: Path | None, changes: int, without_lsyncd: bool, only: str | None) -> None:
    """Measure replicated files; the figures as JSON on standard output."""
    need_root()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with Lab("bench-files", progress=say, packages=() if without_lsyncd else ("lsyncd",)) as lab:
        files = Files(Pair(lab, say), changes, say)
        files.set_up()
        parts = [files.ours, files.burst, files.missed, files.watch, files.bulk, files.lsyncd]
        for part in parts:
            if only in (None, part.__name__) and not (without_lsyncd and part == files.lsyncd):
                part()
    text = json.dumps(files.figures)
    print(text)
    if file is not None:
        file.write_text(text + "\n")


if __name__ == "__main__":
    main()
