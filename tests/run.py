"""Runs the checks and the tests, and sums them up.

Promise: ends with 0 only if every check passed, every test passed and there was at least one; the last line is
``N passed, N failed, N skipped`` over all pytest runs (an error counts as failed). The checks and the groups of fast tests run
side by side; then two labs, which mostly wait, and beside them thousands of schedules with what processors they leave. The
tests start real processes and real faults on a machine that others may use too: what fails is tried once more, alone, and a
test that passes only then is named as unsteady at the end, never silently.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def _units(*names: str) -> list[str]:
    return [f"tests/unit/test_{name}.py" for name in names]


#: Unit tests that start processes and sessions, and wait for them; in groups that take about as long as each other
WAITING = {
    "tests that wait": _units("manager_daemon", "session", "ha_cli", "ha_linuxha", "manager_hands", "store"),
    "tests that wait for devices": _units("fleet", "notifier_daemon", "notifier_ctl", "receiver_process", "logrelay"),
    "tests that wait for files": _units("files_service", "files_transfers", "files_process", "files_watching", "copying"),
    "tests that wait for disks": _units("adoption_crash", "scripts", "notifier_store", "receiver", "tree", "manager_uname"),
}  # fmt: skip
MUTANTS = "tests/simulation/test_mutants.py"
COMPUTING = [f"tests/{name}" for name in ("simulation", "property", "scenarios")] + [f"--ignore={MUTANTS}"]
#: Compiled, over all cores, or without coverage; beside the labs
THOUSANDS = [
    "tests/simulation/test_simulation.py::test_thousands_of_schedules_compiled",
    "tests/simulation/test_director.py::test_directors_keep_the_rules_in_thousands_of_schedules",
]
GROUPS = {
    "unit tests": ["tests/unit", *(f"--ignore={file}" for files in WAITING.values() for file in files)],
    **WAITING,
    "mutants": [MUTANTS],
    "simulation, properties, scenarios": [*COMPUTING, *(f"--deselect={test}" for test in THOUSANDS)],
}
LAB = "tests/lab"
#: Tests with a whole pair of policy servers; they share one, the others have a lab of their own meanwhile
PAIRS = [f"{LAB}/test_files.py", f"{LAB}/test_postgres_troubles.py"]
PAIRS += sorted(os.fspath(path.relative_to(ROOT)) for path in (ROOT / LAB).glob("test_pair_*.py"))
#: Before them, so that both runs take about as long as each other
BEFORE_PAIRS = [f"{LAB}/test_director_clients.py", f"{LAB}/test_director_keepalived.py"]
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "lint-imports": ["lint-imports"],
    "mypy": ["mypy"],
}
#: CPython 3.11 can't always read a test's source for pytest's own kind of traceback while another thread writes one, too
#: (SystemError "AST constructor recursion depth mismatch"): pytest then ends before it has said what failed
TRACEBACK = "--tb=native"
#: A process that runs only where no other one wants to
IDLE = ["chrt", "--idle", "0"]
#: A single test may take so long (seconds) before it counts as hanging; coverage makes those that compute slower
FAST_LIMIT, COVERED_LIMIT, LAB_LIMIT = 120, 300, 600
#: A run may take so long to end after its last test (seconds): a thread that nobody ends would hold it for ever
EXIT_LIMIT = 60
#: Ended by SIGABRT it says what its threads were doing
PYTHON = [sys.executable, "-X", "faulthandler"]


def main() -> int:
    options, rest = arguments()
    began = time.monotonic()
    paths = [word for word in rest if not word.startswith("-") and (ROOT / word.partition("::")[0]).exists()]
    words = [word for word in rest if word not in paths]
    total = Total()
    checks = start_checks()
    if not options.fast and not paths:
        os.environ.setdefault("SIMULATED_SEEDS", "10000")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        if paths:
            total.add(Run(data, "pytest " + " ".join(paths), paths, words, limit=LAB_LIMIT))
        else:
            covering = not options.fast
            total.add(*(Run(data, title, targets, words, covering=covering, quiet=True) for title, targets in GROUPS.items()))
            if covering:
                report_coverage(data)
                lab(data, words, total)
    total.failures += finish_checks(checks)
    return total.sum_up(time.monotonic() - began)


def lab(data: Path, words: list[str], total: Total) -> None:
    first = [*BEFORE_PAIRS, *PAIRS]
    rest = [LAB, *(f"--ignore={file}" for file in first)]
    total.add(
        Run(data, "lab tests with a pair", first, words, limit=LAB_LIMIT),
        Run(data, "other lab tests", rest, words, limit=LAB_LIMIT, quiet=True),
        Run(data, "thousands of schedules, beside the labs", THOUSANDS, words, quiet=True, before=IDLE),
    )


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="run-tests",
        description="All checks (ruff, mypy, lint-imports) and tests.",
        epilog="Anything else goes to pytest: ./run-tests --fast -k election, ./run-tests tests/lab/test_lab.py",
        allow_abbrev=False,
    )
    parser.add_argument("--fast", action="store_true", help="leave the lab out: about a minute")
    return parser.parse_known_args()


class Run:
    """A run of pytest, begun; ``quiet``: what it prints is shown when it has ended."""

    def __init__(
        self, data: Path, title: str, targets: list[str], words: list[str], *,
        limit: int = FAST_LIMIT, covering: bool = False, quiet: bool = False, before: list[str] | None = None,
    ) -> None:  # fmt: skip
        self.title, self._quiet = title, quiet
        self._data = data
        name = "".join(letter if letter.isalnum() else "-" for letter in title)[:60]
        self._report = data / f"{name}.xml"
        # what failed is remembered apart from the other runs
        limit = COVERED_LIMIT if covering else limit
        self._words = [*targets, f"--timeout={limit}", TRACEBACK, "-o", f"cache_dir=.pytest_cache/{name}", *words]
        coverage = ["-m", "coverage", "run", f"--data-file={data / 'coverage'}.{name}"] if covering else []
        if not quiet:
            say(title)
        self._child = self._start([*(before or []), *PYTHON, *coverage])

    def _start(self, python: list[str], *more: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE if self._quiet else None
        argv = [*python, "-m", "pytest", f"--junitxml={self._report}", *self._words, *more]
        return subprocess.Popen(argv, cwd=ROOT, text=True, stdout=pipe, stderr=subprocess.STDOUT if pipe else None)

    def finish(self) -> tuple[int, Counter[str]]:
        """Exit status and counts."""
        output = self._await_end()
        if self._quiet:
            say(self.title)
            print(output, flush=True)
        return self._child.returncode, count(self._report)

    def _await_end(self) -> str | None:
        limit = inf
        while True:
            try:
                return self._child.communicate(timeout=1.0)[0]
            except subprocess.TimeoutExpired:
                if limit == inf and self._report.exists():
                    limit = time.monotonic() + EXIT_LIMIT
                if time.monotonic() > limit:
                    say(
                        f"{self.title}: did not end within {EXIT_LIMIT} s after its last test; a thread of it goes on, it seems"
                    )
                    self._child.send_signal(signal.SIGABRT)
                    limit = inf

    def wait(self) -> None:
        self._child.wait()

    def once_more(self) -> tuple[int, Counter[str], list[str]]:
        """What failed, alone: exit status, counts, and which tests passed only now."""
        before = failed(self._report)
        say(f"{self.title}: {len(before)} failed; once more, these only (named at the end as unsteady if they pass now)")
        self._quiet = False
        self._report.unlink()
        self._child = self._start(PYTHON, "--last-failed")
        code, counts = self.finish()
        still = failed(self._report)
        return code, counts, [name for name in before if name not in still]


@dataclass
class Total:
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    unsteady: list[str] = field(default_factory=list)

    def add(self, *runs: Run) -> None:
        """Wait for all; then try what failed once more. Ctrl-C, which they get too, leaves them the time to take a lab down."""
        try:
            ended = [(run, *run.finish()) for run in runs]
        except KeyboardInterrupt:
            for run in runs:
                run.wait()
            raise
        for run, code, seen in ended:
            if code == 1 and seen["failed"]:
                code, again, steadier = run.once_more()
                self.unsteady += steadier
                seen = Counter(passed=seen["passed"] + again["passed"], failed=again["failed"], skipped=seen["skipped"])
            self.counts += seen
            if code not in (0, 5):  # 5: nothing collected there; nothing at all is dealt with below
                self.failures.append(run.title)

    def sum_up(self, seconds: float) -> int:
        if not sum(self.counts.values()):
            self.failures.append("no test ran")
        say(f"{seconds:.0f} s")
        for name in self.unsteady:
            print(f"UNSTEADY, passed only at the second try: {name}")
        for failure in self.failures:
            print(f"FAILED: {failure}")
        print(f"{self.counts['passed']} passed, {self.counts['failed']} failed, {self.counts['skipped']} skipped")
        return 1 if self.failures or self.counts["failed"] else 0


def report_coverage(data: Path) -> None:
    environment = os.environ | {"COVERAGE_FILE": str(data / "coverage")}
    for words in (["combine", "--quiet"], ["report", "--skip-covered", "--skip-empty"]):
        subprocess.run([sys.executable, "-m", "coverage", *words], cwd=ROOT, env=environment, check=False)


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


def failed(report: Path) -> list[str]:
    """The tests that failed or ended with an error, each once."""
    if not report.exists():
        return []
    cases = ElementTree.parse(report).getroot().iter("testcase")
    bad = (case for case in cases if case.find("failure") is not None or case.find("error") is not None)
    return list(dict.fromkeys(f"{case.get('classname')}::{case.get('name')}" for case in bad))


def say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
