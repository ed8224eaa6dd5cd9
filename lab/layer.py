"""The installed layer: what ``install.sh`` adds to this machine's root, made once and kept until something of it changes.

Promise: a layer is complete or absent; it is made inside namespaces of its own over the root, so that the machine around it
stays as it is; the key is a hash of everything that decides its content (what gets installed, Debian's package state, the
installer). A layer with the same third-party packages is the starting point of the next, so that a changed module costs
seconds, not minutes. In a layer none of Debian's services starts at boot, and the checkout itself can't be seen: what runs is
what was installed. Source: design §2.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .store import LabError, base

PROJECT = Path(__file__).resolve().parent.parent
#: What install.sh reads
_INSTALLED = ("runtime", "heartbeat", "ha_manager", "manager", "notifier", "director", "conf", "init.d", "packaging")
_FILES = ("install.sh", "setup.cfg", "pyproject.toml", "requirements.txt")
_KEEP = 4
_LIMIT = 1800.0

Progress = Callable[[str], None]


def provide(into: Path, progress: Progress, packages: Sequence[str] = ()) -> dict[str, str]:
    """Give a lab the current layer under ``into``; the layer is made first if need be.

    ``packages``: Debian packages that were on the machine before ours was installed (a real Linux-HA heartbeat). The lab gets a
    hard-linked copy: overlays must not share an upper folder, and nobody ever writes to this one. Returns the anchor's mount
    options and the layer's name. Raises LabError when install.sh fails, with its output.
    """
    cache = base() / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    into.mkdir(parents=True)
    with _locked(cache):
        layer = cache / key(packages)
        if not (layer / "upper").is_dir():
            _build(layer, progress, packages)
        os.utime(layer)
        subprocess.run(["cp", "-al", str(layer / "upper"), str(into / "upper")], check=True)
        _forget_old(cache, layer)
    for folder in ("work", "merged"):
        (into / folder).mkdir()
    mounts = {"lower": "/", "upper": str(into / "upper"), "work": str(into / "work"), "merged": str(into / "merged")}
    return mounts | {"layer": layer.name}


def key(packages: Sequence[str] = ()) -> str:
    """Third-party part, then the whole."""
    return f"{_digest(_foundation(), packages)}-{_digest([*_foundation(), *_ours()], packages)}"


def _foundation() -> list[Path]:
    return [
        PROJECT / "requirements.txt",
        PROJECT / "packaging" / "debian-packages.txt",
        Path("/var/lib/dpkg/status"),
        Path(os.path.realpath("/usr/bin/python3")),
    ]


def _ours() -> list[Path]:
    found = [PROJECT / name for name in _FILES]
    for folder in _INSTALLED:
        found += [one for one in (PROJECT / folder).rglob("*") if one.is_file() and "__pycache__" not in one.parts]
    return [*found, Path(__file__)]


def _digest(paths: list[Path], packages: Sequence[str]) -> str:
    digest = hashlib.sha256(" ".join((str(PROJECT), *packages)).encode())
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):
            digest.update(f"{path} {path.stat().st_mode:o}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _build(layer: Path, progress: Progress, packages: Sequence[str]) -> None:
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=layer.parent))
    try:
        _lay_out(draft, layer)
        progress("installing into the lab's layer" + ("" if (draft / "based").exists() else " (first time: a minute or two)"))
        log = layer.parent / f"{layer.name}.log"
        with log.open("wb") as output:
            argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
            argv += ["/bin/sh", "-eu", str(PROJECT / "lab" / "build-layer.sh"), str(draft), str(PROJECT), *packages]
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=_LIMIT, check=False)
        if done.returncode != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise LabError(f"install.sh failed in the lab's layer (all of it in {log}):\n{tail}")
        shutil.rmtree(draft / "work")
        draft.chmod(0o755)
        draft.rename(layer)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _lay_out(draft: Path, layer: Path) -> None:
    for folder in ("work", "merged"):
        (draft / folder).mkdir()
    foundation = layer.name.partition("-")[0]
    earlier = sorted(layer.parent.glob(f"{foundation}-*/upper"), key=lambda one: one.parent.stat().st_mtime)
    if earlier:
        subprocess.run(["cp", "-a", str(earlier[-1]), str(draft / "upper")], check=True)
        (draft / "based").touch()
        return
    (draft / "upper").mkdir()
    (draft / "upper").chmod(0o755)
    for hidden in (PROJECT, base()):
        _hide(draft / "upper", hidden)


def _hide(upper: Path, folder: Path) -> None:
    """Make ``folder`` of the root look empty; its parents keep owner and mode."""
    here = upper
    for part in folder.parts[1:]:
        here = here / part
        if not here.exists():
            here.mkdir()
            like = Path("/") / here.relative_to(upper)
            if like.exists():
                shutil.copystat(like, here)
                os.chown(here, like.stat().st_uid, like.stat().st_gid)
    os.setxattr(here, "trusted.overlay.opaque", b"y")


def _forget_old(cache: Path, current: Path) -> None:
    layers = sorted((one for one in cache.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime, reverse=True)
    for one in layers[_KEEP:]:
        if one != current:
            shutil.rmtree(one, ignore_errors=True)
            one.with_suffix(".log").unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)
