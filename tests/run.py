"""Runs the checks and the tests, and sums them up.

Promise: ends with 0 only if every check passed, every test passed and there was at least one; the last line is
``N passed, N failed, N skipped`` over all pytest runs (an error counts as failed). The slow checks run beside the fast tests.
The tests start real processes and real faults on a machine that others may use too: what fails is tried once more, alone, and
a test that passes only then is named as unsteady, never silently.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
FAST = ("unit", "property", "simulation", "scenarios")
COMPUTING = ("property", "simulation", "scenarios")
#: unit tests that start processes and sessions, and wait for them
WAITING = [
    f"tests/unit/test_{name}.py" for name in ("manager_daemon", "session", "ha_cli", "ha_linuxha", "manager_hands", "store")
]
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "lint-imports": ["lint-imports"],
    "mypy": ["mypy"],
}
#: CPython 3.11 can't always read a test's source for pytest's own kind of traceback while another thread writes one, too
#: (SystemError "AST constructor recursion depth mismatch"): pytest then ends before it has said what failed
TRACEBACK = "--tb=native"
#: A single test may take so long (seconds) before it counts as hanging
FAST_LIMIT, LAB_LIMIT = 120, 600


def main() -> int:
    options, rest = arguments()
    began = time.monotonic()
    paths = [word for word in rest if not word.startswith("-") and (ROOT / word.partition("::")[0]).exists()]
    running = start_checks()
    failures: list[str] = []
    counts: Counter[str] = Counter()
    unsteady = 0
    if not options.fast and not paths:
        os.environ.setdefault("SIMULATED_SEEDS", "10000")
    beside = []
    if options.fast and not paths:
        beside.append(Beside("simulation, properties, scenarios", [f"tests/{name}" for name in COMPUTING], rest))
        beside.append(Beside("tests that wait", WAITING, rest))
    for title, targets, limit, covered in plan(options.fast, paths):
        say(title)
        words = [word for word in rest if word not in paths]
        code, seen = pytest([*targets, f"--timeout={limit}", *words], covered)
        if code == 1 and seen["failed"]:
            code, seen, steadier = once_more(title, [*targets, f"--timeout={limit}", *words], seen)
            unsteady += steadier
        counts += seen
        if code not in (0, 5):  # 5: nothing collected there; nothing at all is dealt with below
            failures.append(title)
    for run_beside in beside:
        code, seen = run_beside.finish()
        if code == 1 and seen["failed"]:
            code, seen, steadier = once_more(run_beside.title, run_beside.words, seen)
            unsteady += steadier
        counts += seen
        failures += [] if code in (0, 5) else [run_beside.title]
    failures += finish_checks(running)
    if not sum(counts.values()):
        failures.append("no test ran")
    say(f"{time.monotonic() - began:.0f} s")
    if unsteady:
        print(f"UNSTEADY: {unsteady} passed only at the second try; see the first failure above")
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if failures or counts["failed"] else 0


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="run-tests",
        description="All checks (ruff, mypy, lint-imports) and tests.",
        epilog="Anything else goes to pytest: ./run-tests --fast -k election, ./run-tests tests/lab/test_lab.py",
        allow_abbrev=False,
    )
    parser.add_argument("--fast", action="store_true", help="leave the lab out: under a minute")
    return parser.parse_known_args()


def plan(fast: bool, paths: list[str]) -> list[tuple[str, list[str], int, bool]]:
    """Pytest runs: title, targets, time limit of a test, with coverage."""
    if paths:
        return [("pytest " + " ".join(paths), paths, LAB_LIMIT, False)]
    folders = [f"tests/{name}" for name in FAST if not (fast and name in COMPUTING)]
    folders += [f"--ignore={file}" for file in WAITING if fast]
    runs = [("fast tests", folders, FAST_LIMIT, not fast)] if folders else []
    if not fast and any((ROOT / "tests" / "lab").rglob("test_*.py")):
        runs.append(("lab tests", ["tests/lab"], LAB_LIMIT, False))
    return runs


def start_checks() -> dict[str, subprocess.Popen[str]]:
    return {
        name: subprocess.Popen(
            [str(BIN / argv[0]), *argv[1:]],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        for name, argv in CHECKS.items()
    }


def finish_checks(running: dict[str, subprocess.Popen[str]]) -> list[str]:
    failed = []
    for name, check in running.items():
        output = check.communicate()[0]
        say(f"{name}: {'ok' if check.returncode == 0 else 'FAILED'}")
        if check.returncode != 0:
            print(output, flush=True)
            failed.append(name)
    return failed


def pytest(words: list[str], covered: bool) -> tuple[int, Counter[str]]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        environment = os.environ | {"COVERAGE_FILE": str(Path(folder, "coverage"))}
        coverage = ["-m", "coverage", "run"] if covered else []
        code = run([sys.executable, *coverage, "-m", "pytest", TRACEBACK, f"--junitxml={report}", *words], environment)
        if covered:
            run([sys.executable, "-m", "coverage", "report", "--skip-covered", "--skip-empty"], environment)
        return code, count(report)


def once_more(title: str, words: list[str], seen: Counter[str]) -> tuple[int, Counter[str], int]:
    """What failed, alone: exit status, the counts with it, and how many passed only now."""
    say(f"{title}: {seen['failed']} failed; once more, these only (named below as unsteady if they pass now)")
    code, again = pytest([*words, "--last-failed"], False)
    passed = seen["passed"] + again["passed"]
    return code, Counter(passed=passed, failed=again["failed"], skipped=seen["skipped"]), again["passed"]


class Beside:
    """A run of pytest beside the others, told when it has ended."""

    def __init__(self, title: str, targets: list[str], words: list[str]) -> None:
        self.title = title
        self._folder = tempfile.TemporaryDirectory()
        self._report = Path(self._folder.name, "report.xml")
        # what failed is remembered apart from the other runs
        cache = f".pytest_cache/{targets[0].replace('/', '-')}"
        self.words = [*targets, f"--timeout={FAST_LIMIT}", "-o", f"cache_dir={cache}", *words]
        argv = [sys.executable, "-m", "pytest", "-q", TRACEBACK, f"--junitxml={self._report}", *self.words]
        self._child = subprocess.Popen(argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finish(self) -> tuple[int, Counter[str]]:
        output = self._child.communicate()[0]
        say(self.title)
        print(output, flush=True)
        with self._folder:
            return self._child.returncode, count(self._report)


def run(argv: list[str], environment: dict[str, str]) -> int:
    """Like subprocess.run; but Ctrl-C leaves pytest, which gets it too, the time to take its lab down."""
    child = subprocess.Popen(argv, cwd=ROOT, env=environment)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise


def count(report: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    if not report.exists():
        return counts
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        numbers = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
        counts["failed"] += numbers["failures"] + numbers["errors"]
        counts["skipped"] += numbers["skipped"]
        counts["passed"] += numbers["tests"] - numbers["failures"] - numbers["errors"] - numbers["skipped"]
    return counts


def say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
