"""Debian packages that are measured against or with, installed beside this machine's root, not on it.

Promise: this machine's own packages stay as they are; what apt installs lies in a folder that overlays the root, is made once
and kept for the next run. Source: lab/layer.py does the same with ours.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.store import base
from runtime.errors import HaError

_PROJECT = Path(__file__).resolve().parent.parent
_SCRIPT = Path(__file__).with_name("debian-layer.sh")
_LIMIT = 900.0


def provide(packages: Sequence[str], say: Callable[[str], None]) -> Path:
    """The folder to lay over / so that ``packages`` are there. Raises HaError with what apt said."""
    installed = Path("/var/lib/dpkg/status").read_bytes()
    name = hashlib.sha256(" ".join(packages).encode() + _SCRIPT.read_bytes() + installed).hexdigest()[:12]
    folder = base() / "bench" / name
    if (folder / "upper").is_dir():
        return folder / "upper"
    say(f"Installing Debian's {', '.join(packages)} into a folder of its own (once; this machine's packages stay as they are)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=folder.parent))
    try:
        for part in ("upper", "work", "merged"):
            (draft / part).mkdir()
        (draft / "upper").chmod(0o755)
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        argv += ["/bin/sh", "-eu", str(_SCRIPT), str(draft), str(_PROJECT), *packages]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT, check=False)
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise HaError(f"apt could not install {', '.join(packages)}:\n{tail}")
        shutil.rmtree(draft / "work")
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / "upper"


def copy(layer: Path, own: Path) -> None:
    own.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(layer), str(own / "disk")], check=True)


def root(own: Path) -> str:
    """Shell commands that mount a root at ``own``/root, for a process in a mount namespace of its own; ``own``/disk: a copy
    of ``provide``'s folder (overlays must not share one), which keeps what is written.
    """
    return (
        f"mkdir -p {own}/work {own}/root && mount -t overlay overlay -o lowerdir=/,upperdir={own}/disk,workdir={own}/work"
        f" {own}/root && mount -t proc proc {own}/root/proc && mount --rbind /dev {own}/root/dev"
        f" && mount -t tmpfs -o mode=755 tmpfs {own}/root/run && mount -t tmpfs -o mode=1777 tmpfs {own}/root/tmp"
    )
