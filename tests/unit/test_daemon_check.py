"""``python -m heartbeat.daemon --check``: what is wrong is said, nothing is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def checked(folder: Path) -> tuple[int, str]:
    argv = [sys.executable, "-m", "heartbeat.daemon", "--check", "--config-dir", str(folder), "--run-dir", str(folder / "run")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_a_mistake_is_named_with_file_and_line_and_nothing_begins(tmp_path: Path) -> None:
    (tmp_path / "ha.cf").write_text("keepalive 200ms\nbogus 1\n")
    code, said = checked(tmp_path)
    assert code == 6 and "ha.cf:2" in said and "bogus" in said
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    code, said = checked(tmp_path)
    assert code == 6 and str(tmp_path / "ha.cf") in said
