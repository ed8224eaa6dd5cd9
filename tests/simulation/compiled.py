"""The core and its world compiled with mypyc: the same results five times as fast, for campaigns of many thousands of seeds.

Promise: nothing is written into the tree; the compiled modules lie in a folder of their own below the system's temporary one,
named after what they were made of, and are used again as long as nothing changes. What can't be compiled here is said at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

TREE = Path(__file__).parent.parent.parent
#: stay as they are: what chooses schedules takes no time, and a compiled class permits no mutant
PLAIN = ("__", "backed_scenarios", "campaign", "compiled", "mutants", "scenarios", "schedules", "shrink", "transcripts")

LOADED = """
import sys, tests.simulation.__main__
packages = ("heartbeat", "runtime", "tests")
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in packages and module.__file__))
"""


def missing(which: Callable[[str], str | None] = shutil.which, include: str = sysconfig.get_path("include")) -> str:
    """What this machine lacks, with the remedy; "" if nothing."""
    if find_spec("mypyc") is None or find_spec("setuptools") is None:
        return "mypyc, which comes with mypy, or setuptools is missing: pip install -r requirements.txt -r requirements-dev.txt"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if which(compiler) is None:
        return f"the C compiler {compiler} is missing: apt-get install gcc"
    if not (Path(include) / "Python.h").exists():
        return f"Python's header files are missing in {include}: apt-get install python3-dev"
    return ""


def restart(arguments: list[str]) -> None:
    """Run ``python -m tests.simulation`` with these arguments, compiled; returns only to say that it can't."""
    lacks = missing()
    if lacks:
        raise SystemExit(f"--compiled: {lacks}")
    folder = built()
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *arguments])


def _sources() -> list[Path]:
    """What is imported for a run, below the tree."""
    listing = subprocess.run([sys.executable, "-c", LOADED], cwd=TREE, capture_output=True, text=True, check=True)
    return sorted({Path(line).relative_to(TREE) for line in listing.stdout.split()})


def built() -> Path:
    """The folder with what is compiled; made if it isn't there. SystemExit says why it can't be."""
    sources = _sources()
    made_of = hashlib.sha256(sys.version.encode())
    for source in sources:
        made_of.update(str(source).encode() + b"\0" + (TREE / source).read_bytes())
    folder = Path(tempfile.gettempdir()) / f"ha_manager-simulation-{os.getuid()}-{made_of.hexdigest()[:16]}"
    if not folder.exists():
        _build(sources, folder)
    return folder


def _build(sources: list[Path], folder: Path) -> None:
    print(f"compiling {len(sources)} modules into {folder}: a minute or less", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="ha_manager-simulation-") as making:
        for source in sources:
            copy = Path(making) / source
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TREE / source, copy)
        compiled = [str(source) for source in sources if not source.name.startswith(PLAIN)]
        done = subprocess.run([sys.executable, "-m", "mypyc", *compiled], cwd=making, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"mypyc failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        shutil.rmtree(Path(making) / "build")
        shutil.copytree(making, folder.with_suffix(f".{os.getpid()}"))
    folder.with_suffix(f".{os.getpid()}").rename(folder)
