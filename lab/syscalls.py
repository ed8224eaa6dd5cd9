"""System calls about namespaces and mounts that Python 3.11 doesn't have.

Promise: each raises OSError with the call's name on failure; no state. Standard library only: ``init`` and ``spawn`` run this
file before anything of the project can be imported. Source: unshare(2), setns(2), mount(2), pivot_root(2).
"""

from __future__ import annotations

import ctypes
import os
import platform

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def _checked(name: str, result: int, *about: object) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}", " ".join(str(one) for one in about))


def unshare(flags: int) -> None:
    _checked("unshare", _libc.unshare(flags), hex(flags))


def join(pid: int, kind: str) -> None:
    """Enter the namespace ``kind`` (mnt, net, pid, …) of a process; pid: for children only."""
    handle = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked("setns", _libc.setns(handle, 0), pid, kind)
    finally:
        os.close(handle)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    _checked("mount", _libc.mount(*encoded, ctypes.c_ulong(flags), data.encode()), source, target)


def unmount(target: str, flags: int = 0) -> None:
    _checked("umount2", _libc.umount2(target.encode(), flags), target)


def pivot_root(new: str, old: str) -> None:
    number = _SYS_PIVOT_ROOT[platform.machine()]
    _checked("pivot_root", _libc.syscall(number, new.encode(), old.encode()), new, old)
