"""How fast a commit is on many devices, and what an idle one costs.

    sudo .venv/bin/python -m bench.notifier --json FILE [--devices 50] [--repeats 5] [--status-devices 200]

Promise: everything is real but the machines: one notifier, a receiver a process for each device, SSH over loopback. All trees
lie on one disk, where real devices have one each: ``--place /dev/shm`` leaves it out. A commit counts as done when every device
has switched and said so. The first one is compared with as many bare ``rsync -a`` over OpenSSH at once, of the same tree into
empty folders, without flushing anything. Source: issue "Manager and notifier" ("Held to").
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.stage import need_root
from manager.paths import Paths as DevicePaths
from notifier.client import ask
from notifier.paths import Paths
from runtime.errors import ControlError
from runtime.keys import Keys
from runtime.pins import Pins

NODE = "vs-166"
_PYTHON = [sys.executable, "-m"]
_ROOT = Path(__file__).resolve().parent.parent
_LIMIT = 120.0


class Ground:
    """One notifier and its devices below one folder. ``say`` prints a line."""

    def __init__(self, folder: Path, devices: int, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self.paths = Paths(folder / NODE)
        self.keys = Keys(self.paths.keys)
        self.keys.make(NODE)
        self.names = [f"vs-{n}" if n < 2 else f"scan-{n}" for n in range(devices)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.notifier: subprocess.Popen[bytes] | None = None

    def root(self, name: str) -> Path:
        return self.folder / "devices" / name

    def set_up(self) -> None:
        """Keys, devices.xml, receivers, the notifier; all connected."""
        rows, pins = [], Pins(self.paths.device_keys)
        for name, port in zip(self.names, _free_ports(2 * len(self.names)), strict=False):
            keys = Keys(DevicePaths(self.root(name)).keys)
            (self.root(name) / "run/manager").mkdir(parents=True)
            pins.pin(keys.make(name))
            Pins(keys.directory / "notifiers").pin(self.keys.show())
            kind = "Management Server" if name.startswith("vs") else "Scanning Server"
            rows.append(f'<device name="{name}" ip="127.0.0.1" port="{port}" device_type="{kind}"/>')
            self._start_receiver(name, port)
        self.paths.devices.write_text("<devices>\n" + "\n".join(rows) + "\n</devices>\n")

    def _start_receiver(self, name: str, port: int) -> None:
        words = ["manager.receiver", "--root", str(self.root(name)), "--address", "127.0.0.1", "--port", str(port)]
        words += ["--bulk-port", str(port + 20000), "--foreground"]
        self._processes.append(self._start(words, self.root(name) / "log"))

    def start_notifier(self) -> float:
        """Seconds until all devices are connected."""
        began = time.monotonic()
        self.notifier = self._start(["notifier.daemon", "--root", str(self.paths.root), "--foreground"], self.folder / "log")
        self._processes.append(self.notifier)
        self.until(lambda: self.connected() == len(self.names), "all devices to be connected")
        return time.monotonic() - began

    def _start(self, words: list[str], log: Path) -> subprocess.Popen[bytes]:
        with open(log, "ab") as output:
            return subprocess.Popen([*_PYTHON, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=_ROOT)

    def end(self) -> None:
        for each in self._processes:
            each.send_signal(signal.SIGKILL)
        for each in self._processes:
            each.wait()

    def connected(self) -> int:
        try:
            rows = ask(self.paths.control, "status", timeout=30.0)["devices"]
        except ControlError:
            return 0
        return sum(row["connection"] == "connected" for row in rows)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _LIMIT
        while not holds():
            if time.monotonic() > end:
                raise SystemExit(f"waited in vain for {what}: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)

    # --- the tree -----------------------------------------------------------------------------------------------------------

    def make_tree(self, files: int, size: int) -> None:
        """``size`` bytes in ``files`` files, 100 a folder."""
        data = random.Random(1)
        for n in range(files):
            file = self.paths.base / f"global/module{n // 100}/{n}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.randbytes(size // files))

    def change(self, files: int, number: int) -> None:
        for n in range(files):
            file = self.paths.base / f"global/module{(n * 7 + number) % 50}/{((n * 7 + number) % 50) * 100 + n}.xml"
            file.write_bytes(os.urandom(file.stat().st_size))

    def commit(self) -> float:
        began = time.monotonic()
        done = subprocess.run(
            [*_PYTHON, "notifier.ctl", "--root", str(self.paths.root), "commit"],
            capture_output=True, text=True, cwd=_ROOT, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        if done.returncode != 0:
            raise SystemExit(f"the commit ended with {done.returncode}: {done.stdout} {done.stderr}")
        self._check()
        return seconds

    def _check(self) -> None:
        """Every device has it, in its conf_ready, of the newest change."""
        rows = ask(self.paths.control, "status", timeout=30.0)["devices"]
        assert len({row["release"] for row in rows}) == 1 and all(row["sync"] == "in sync" for row in rows)
        newest = max((self.paths.base / "global").glob("module*/*"), key=lambda file: file.stat().st_mtime_ns)
        wanted = newest.read_bytes()
        for name in self.names:
            there = DevicePaths(self.root(name)).conf_ready / newest.relative_to(self.paths.base)
            assert there.read_bytes() == wanted, there

    def status(self, *words: str) -> float:
        began = time.monotonic()
        subprocess.run(
            [*_PYTHON, "notifier.ctl", "--root", str(self.paths.root), "status", *words],
            stdout=subprocess.DEVNULL, cwd=_ROOT, check=True,
        )  # fmt: skip
        return time.monotonic() - began


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel gives away itself."""
    found = []
    for port in range(12000, 30000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


@contextmanager
def ground(devices: int, say: Callable[[str], None], place: str = "/var/tmp") -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="bench-notifier.", dir=place))
    made = Ground(folder, devices, say)
    try:
        made.paths.base.mkdir(parents=True)
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


# --- rsync, bare --------------------------------------------------------------------------------------------------------------


def rsync_parallel(folder: Path, tree: Path, times: int) -> float:
    """Seconds for as many copies at once into empty folders, over OpenSSH."""
    work = folder / "rsync"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / name], check=True)
    (port,) = _free_ports(1)
    (work / "sshd").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {work}/host\nAuthorizedKeysFile {work}/key.pub\nPermitRootLogin yes\n"
        "UsePAM no\nStrictModes no\nPidFile none\nMaxStartups 500\nLogLevel ERROR\n"
    )
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(work / "sshd")], stderr=subprocess.DEVNULL)
    shell = f"ssh -p {port} -i {work}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    shell += " -o Ciphers=aes128-gcm@openssh.com -o IdentityAgent=none"
    try:
        time.sleep(0.5)
        began = time.monotonic()
        copies = [
            subprocess.Popen(["rsync", "-a", "-e", shell, f"{tree}/", f"root@127.0.0.1:{work}/copy{n}"]) for n in range(times)
        ]
        codes = [each.wait() for each in copies]
        seconds = time.monotonic() - began
    finally:
        server.terminate()
        server.wait()
    assert not any(codes), codes
    shutil.rmtree(work)
    return seconds


# --- cost ---------------------------------------------------------------------------------------------------------------------


def cost(pid: int, seconds: float) -> tuple[float, float, int]:
    """Share of a core, memory of its own in MB, threads."""
    before, began = _ticks(pid), time.monotonic()
    time.sleep(seconds)
    share = (_ticks(pid) - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    return share, own / 1024, len(os.listdir(f"/proc/{pid}/task"))


def _ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def measure(devices: int, repeats: int, say: Callable[[str], None], place: str = "/var/tmp") -> dict[str, Any]:
    """Commits: the first, and those of ten changed files."""
    found: dict[str, Any] = {"incremental_commit_s": [], "first_commit_s": [], "rsync_parallel_s": []}
    with ground(devices, say, place) as made:
        made.make_tree(5000, 50 * 1024 * 1024)
        made.set_up()
        found["connect_s"] = [round(made.start_notifier(), 3)]
        say(f"{devices} devices connected after {found['connect_s'][0]:.1f} s, of which most is the start of their processes")
        found["rsync_parallel_s"].append(round(rsync_parallel(made.folder, made.paths.base, devices), 3))
        found["first_commit_s"].append(round(made.commit(), 3))
        first, bare = found["first_commit_s"][0], found["rsync_parallel_s"][0]
        say(f"first commit {first:.1f} s; {devices} bare rsync at once {bare:.1f} s; ratio {first / bare:.2f}")
        for number in range(repeats):
            made.change(10, number)
            found["incremental_commit_s"].append(round(made.commit(), 3))
        found["unchanged_commit_s"] = [round(made.commit(), 3) for _ in range(repeats)]
        for word in ("incremental", "unchanged"):
            times = found[f"{word}_commit_s"]
            say(f"{word} commit: median {median(times):.2f} s ({min(times):.2f} - {max(times):.2f})")
    return found


def measure_status(devices: int, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """``notifier-ctl status`` of many, and what they cost while nothing happens."""
    found: dict[str, Any] = {}
    with ground(devices, say) as made:
        made.set_up()
        made.start_notifier()
        assert made.notifier is not None
        found["status_s"] = [round(made.status("--json"), 3) for _ in range(repeats)]
        found["status_now_s"] = [round(made.status("--json", "--now"), 3) for _ in range(repeats)]
        for word in ("status", "status_now"):
            times = found[f"{word}_s"]
            say(f"{word} of {devices}: median {median(times):.2f} s ({min(times):.2f} - {max(times):.2f})")
        share, megabytes, threads = cost(made.notifier.pid, 30.0)
        found["idle"] = {"devices": devices, "core": round(share, 4), "memory_mb": round(megabytes, 1), "threads": threads}
        say(f"idle, {devices} devices: {share * 100:.2f} % of a core, {megabytes:.0f} MB, {threads} threads")
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--devices", default=50, show_default=True)
@click.option("--status-devices", default=200, show_default=True, help="0: leave that out.")
@click.option("--repeats", default=5, show_default=True)
@click.option(
    "--place", default="/var/tmp", show_default=True, help="Where the trees of all devices lie: one disk for all, or /dev/shm."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to FILE.", metavar="FILE")
def main(devices: int, status_devices: int, repeats: int, place: str, json_file: Path | None) -> None:
    """Measure commits to many devices on this machine."""
    need_root()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing that was started is left behind
    found: dict[str, Any] = {}
    if devices:
        found |= measure(devices, repeats, click.echo, place)
    if status_devices:
        found |= measure_status(status_devices, repeats, click.echo)
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
