"""Postgres of other major versions than Debian's, for tests: fetched once as a wheel, kept beside the lab's layers.

Promise: what is handed out is complete (every program that ha_manager calls), runs as the user postgres, and is what the pinned
hash says; this machine's own packages stay as they are. What can't be had says why in words, and is asked for once a process.
Source: packaging/postgres-versions.txt; issue "Postgres: no acknowledged write lost", Configuration.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from runtime.commands import run
from runtime.errors import CommandFailed, HaError

from .store import base

VERSIONS = Path(__file__).resolve().parent.parent / "packaging" / "postgres-versions.txt"
PROGRAMS = ("postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata", "pg_waldump")
_DEBIAN = Path("/usr/lib/postgresql")
_LIMIT = 120.0


@dataclass(frozen=True)
class Wheel:
    """One line of the file of versions."""

    requirement: str
    python: str
    digest: str


def wheels() -> dict[int, Wheel]:
    """Major version → what to fetch."""
    lines = [line.split("#")[0].split() for line in VERSIONS.read_text().splitlines()]
    return {int(words[0]): Wheel(*words[1:]) for words in lines if words}


def debian() -> int:
    """The major version that is installed here; 0: none."""
    return max((int(path.parent.name) for path in _DEBIAN.glob("*/bin") if path.parent.name.isdigit()), default=0)


def majors() -> list[int]:
    """Debian's, then the others."""
    return [debian(), *sorted(wheels().keys() - {debian()})]


@functools.cache
def provide(major: int) -> Path:
    """The folder with the programs of that version. Raises HaError: it can't be had, and why."""
    if major == debian():
        return _DEBIAN / str(major) / "bin"
    trouble = _trouble(major)
    if trouble:
        raise HaError(f"Postgres {major} can't be had here: {trouble}")
    return _programs(_folder(wheels()[major]))


@functools.cache
def _trouble(major: int) -> str:
    try:
        folder = _folder(wheels()[major])
        if not folder.is_dir():
            _fetch(wheels()[major], folder)
        _check(_programs(folder), major)
    except (HaError, KeyError) as wrong:
        return str(wrong)
    return ""


def _folder(wheel: Wheel) -> Path:
    return base() / "postgres" / hashlib.sha256(f"{wheel}".encode()).hexdigest()[:12]


def _fetch(wheel: Wheel, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=folder.parent))
    try:
        wanted = draft / "wanted.txt"
        wanted.write_text(f"{wheel.requirement} --hash={wheel.digest}\n")
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
        argv += ["--retries", "1", "--timeout", "20", "--only-binary", ":all:", "--python-version", wheel.python]
        run([*argv, "--dest", str(draft / "wheel"), "--require-hashes", "-r", str(wanted)], timeout=_LIMIT)
        for file in (draft / "wheel").glob("*.whl"):
            _unpack(file, draft / "content")
        shutil.rmtree(draft / "wheel")
        for program in _programs(draft / "content").iterdir():
            program.chmod(0o755)
        draft.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was faster
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unpack(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    for inner in into.rglob("*.tar.gz"):
        subprocess.run(["tar", "-xzf", str(inner), "-C", str(into), "--no-same-owner"], check=True)
        inner.unlink()


def _programs(folder: Path) -> Path:
    for each in folder.rglob("bin/postgres"):
        return each.parent
    raise HaError("the wheel holds no Postgres")


def _check(programs: Path, major: int) -> None:
    missing = [name for name in PROGRAMS if not (programs / name).is_file()]
    if missing:
        raise HaError(f"the wheel lacks {', '.join(missing)}")
    for name in PROGRAMS:
        try:
            said = run([programs / name, "--version"], timeout=10, user="postgres", cwd="/").stdout
        except CommandFailed as wrong:
            raise HaError(f"{name} does not run: {wrong}") from wrong
        found = re.search(r"\(PostgreSQL\) (\d+)", said)
        if found is None or int(found[1]) != major:
            raise HaError(f"{name} is of another version: {said.strip()}")
