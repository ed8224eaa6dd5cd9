"""manager-ctl keys: made, shown, accepted only after a comparison, forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from manager.ctl import _configuration, main
from runtime.keys import Keys, PublicKey


@pytest.fixture
def notifier(tmp_path: Path) -> PublicKey:
    return Keys(tmp_path / "vs-1").make("vs-1")


def ctl(root: Path, *words: str, says: str = "") -> Result:
    return CliRunner().invoke(main, ["--root", str(root), "keys", *words], input=says)


def test_a_key_is_accepted_when_somebody_compared_it(tmp_path: Path, notifier: PublicKey) -> None:
    assert ctl(tmp_path, "make", "--name", "scan-1").exit_code == 0
    line = notifier.line.split()
    assert "nothing was accepted" in ctl(tmp_path, "accept", *line, says="n\n").output
    assert "nothing was accepted" in ctl(tmp_path, "accept", *line, "--fingerprint", "aaaa-bbbb-cccc-dddd").output
    assert "vs-1" not in ctl(tmp_path, "show").output
    asked = ctl(tmp_path, "accept", *line, says="y\n")
    assert asked.exit_code == 0 and notifier.fingerprint in asked.output
    shown = ctl(tmp_path, "show").output
    assert shown.startswith("ha-key-1 scan-1 ") and f"notifier vs-1 {notifier.fingerprint} (accepted)" in shown


def test_another_key_needs_replace_and_forget_takes_it_away(tmp_path: Path, notifier: PublicKey) -> None:
    ctl(tmp_path, "make", "--name", "scan-1")
    ctl(tmp_path, "accept", *notifier.line.split(), "--fingerprint", notifier.fingerprint)
    new = Keys(tmp_path / "vs-1").make("vs-1", force=True)
    words = ("accept", *new.line.split(), "--fingerprint", new.fingerprint)
    assert "--replace" in ctl(tmp_path, *words).output
    assert ctl(tmp_path, *words, "--replace").exit_code == 0
    assert ctl(tmp_path, "forget", "vs-1").exit_code == 0
    assert ctl(tmp_path, "forget", "vs-1").exit_code == 1


def test_mistakes_are_told(tmp_path: Path) -> None:
    assert "keys make" in ctl(tmp_path, "show").output
    ctl(tmp_path, "make", "--name", "scan-1")
    assert "--force" in ctl(tmp_path, "make", "--name", "scan-1").output
    assert "not a node key" in ctl(tmp_path, "accept", "nonsense").output
    own = Keys(tmp_path / "etc/ha_manager/keys").show()
    assert "this device itself" in ctl(tmp_path, "accept", *own.line.split(), "--fingerprint", own.fingerprint).output


def test_status_says_what_is_held() -> None:
    held = {"version": [3, "vs-1", 17], "digest": "d"}
    assert "no key yet" in _configuration({})[0]
    assert "none was received" in _configuration({"holds": None})[0]
    assert "keys accept" in _configuration({"holds": None, "accepts": []})[0]
    assert "keys accept" not in _configuration({"holds": None, "accepts": ["vs-166"]})[0]
    assert _configuration({"holds": held, "applied": "d"}) == ["configuration: release 17 of epoch 3/vs-1 is held, applied"]
    assert "not applied yet; listens to the notifier of vs-1" in _configuration({"holds": held, "passive_of": "vs-1"})[0]
