"""Runs a command as on a kernel without nfnetlink: ``python -m tests.lab.no_nftables COMMAND…``

A system call filter (seccomp) refuses sockets of NETLINK_NETFILTER with EPROTONOSUPPORT, as such a kernel does; all else is as
it is. For x86-64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_SOCKET, _AF_NETLINK, _NETLINK_NETFILTER = 41, 16, 12
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2

#: (operation, if true skip, if false skip, operand); the offsets are those of struct seccomp_data
_PROGRAM = [
    (_LOAD, 0, 0, 0), (_JUMP_EQUAL, 0, 5, _SOCKET),
    (_LOAD, 0, 0, 16), (_JUMP_EQUAL, 0, 3, _AF_NETLINK),
    (_LOAD, 0, 0, 32), (_JUMP_EQUAL, 0, 1, _NETLINK_NETFILTER),
    (_RETURN, 0, 0, _ERRNO | errno.EPROTONOSUPPORT),
    (_RETURN, 0, 0, _ALLOW),
]  # fmt: skip


def main() -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in _PROGRAM))
    attached = ctypes.create_string_buffer(struct.pack("@HP", len(_PROGRAM), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _SECCOMP, _FILTER, ctypes.c_void_p(ctypes.addressof(attached)), 0, 0
    ):
        sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
