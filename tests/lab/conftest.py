"""The lab that the tests share: one pair for the whole session, mended before each test.

``lab``: all machines on, all links whole, disks as the test before left them. ``fresh_lab``: the same with disks as just
installed. When a test fails, the system logs of all machines are in its report, and what their Postgres said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import syscalls
from lab.api import Lab, labs
from lab.machine import Node


def pytest_sessionstart() -> None:
    """A Postgres that is killed leaves a System V segment behind, and a kernel has 4096 of them: this session's go with it."""
    with contextlib.suppress(PermissionError):  # not root: most of these tests are skipped
        syscalls.unshare(syscalls.CLONE_NEWIPC)


def take_down_orphans() -> None:
    """Labs of test sessions that were killed while they tried one that outlives its maker on purpose."""
    for name in labs():
        kind, _, session = name.rpartition("-")
        if kind in ("test", "other", "fleet", "tier") and session.isdigit() and not Path(f"/proc/{session}").exists():
            Lab(name).down()


@pytest.fixture(scope="session")
def pair() -> Iterator[Lab]:
    """Up once a session; also gone when this process is killed."""
    take_down_orphans()
    with Lab(f"test-{os.getpid()}") as lab:
        yield lab


@pytest.fixture
def lab(pair: Lab) -> Lab:
    pair.heal()
    for node in pair.nodes:
        if not node.is_on:
            pair.power_on(node.name)
    return pair


@pytest.fixture
def fresh_lab(pair: Lab) -> Lab:
    pair.heal()
    for node in pair.nodes:
        pair.reinstall(node.name)
    return pair


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    given = getattr(item, "funcargs", {})
    lab = given.get("pair") or getattr(given.get("built"), "lab", None)
    if report.failed and isinstance(lab, Lab) and lab.is_up:
        for node in lab.nodes:
            if log := node.log():
                report.sections.append((f"system log of {node.name}", log[-20000:]))
            report.sections += _messages(node)


def _messages(node: Node) -> list[tuple[str, str]]:
    """The ends of what its Postgres said, each with a title."""
    with contextlib.suppress(OSError):  # a fault may still be under way there
        files = sorted(node.path("/var/log/postgresql").glob("*.log")) if node.is_on else []
        return [(f"{path.name} of {node.name}", text[-8000:]) for path in files if (text := path.read_text(errors="replace"))]
    return []
