"""What ``--compiled`` says where it can't compile. (That it gives the same results was compared for thousands of seeds.)"""

from __future__ import annotations

from pathlib import Path

from . import compiled


def test_a_missing_compiler_is_named_with_its_remedy() -> None:
    assert "apt-get install gcc" in compiled.missing(which=lambda name: None)


def test_missing_header_files_are_named_with_their_remedy(tmp_path: Path) -> None:
    assert "apt-get install python3-dev" in compiled.missing(which=lambda name: f"/usr/bin/{name}", include=str(tmp_path))
    (tmp_path / "Python.h").touch()
    assert compiled.missing(which=lambda name: f"/usr/bin/{name}", include=str(tmp_path)) == ""
