"""Every core busy with something else: what a heartbeat must not mistake for a dead peer.

Promise: stress-ng runs while the block does, and is gone after it, with everything it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.debian import copy, root


@contextlib.contextmanager
def loaded(layer: Path, folder: Path) -> Iterator[None]:
    """``layer``: where stress-ng is installed; ``folder``: for its root."""
    cores = str(os.cpu_count() or 1)
    stress = f"stress-ng --quiet --cpu {cores} --vm {cores} --vm-bytes 64M --temp-path /tmp"
    flags = ("--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
    copy(layer, folder / "stress")
    command = f"{root(folder / 'stress')} && exec chroot {folder}/stress/root {stress}"
    process = subprocess.Popen(["unshare", *flags, "sh", "-c", command], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
