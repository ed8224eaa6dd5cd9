"""``ha files``: what an operator reads, and what is put back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ha_manager import cli_files
from ha_manager.cli import main
from ha_manager.config import Config, load
from ha_manager.host import Host
from ha_manager.site import Site
from runtime.errors import ConfigError, HaError, NotRunning
from tests.unit.test_ha_config import EXAMPLE, HERE, loaded

NOW = 1_800_000_000.0


def entry(**more: Any) -> dict[str, Any]:
    return {
        "path": "/etc/shadow", "inotify": True, "interval": 60, "owner": "", "kind": "file", "size": 900,
        "last_change": NOW - 3, "last_copied": NOW - 2.9, "behind": 0.0, "error": "", "progress": "", "unwatched": "",
        "asked": 0, "done": 1,
    } | more  # fmt: skip


def found(**more: Any) -> dict[str, Any]:
    return {
        "role": "active", "epoch": [5, "vs-166"], "connected": True, "why": "", "peer": "vs-28", "entries": [entry()],
        "staged": {"epoch": [0, ""], "complete": {}, "received": {}, "doubts": {}},
        "placed": {"epoch": [0, ""], "kept": ""}, "alarms": {},
    } | more  # fmt: skip


def test_each_entry_says_how_far_it_is() -> None:
    said = cli_files.lines(found(), NOW)
    assert said[0] == "this server is active; files are copied to vs-28"
    assert said[2].split() == ["/etc/shadow", "at", "once", "3.0", "s", "ago", "2.9", "s", "ago", "copied,", "900", "bytes"]


@pytest.mark.parametrize(
    "more, words",
    [
        ({"progress": "12 MiB sent, 4 %, 90.00MB/s"}, "12 MiB sent, 4 %, 90.00MB/s"),
        ({"error": "No space left on device"}, "No space left on device"),
        ({"behind": 2.25}, "behind by 2.2 s"),
        ({"kind": "absent"}, "does not exist here"),
        ({"kind": "folder"}, "copied"),
        ({"done": 0}, "-"),
    ],
)
def test_the_state_of_an_entry_in_words(more: dict[str, Any], words: str) -> None:
    assert cli_files.state(entry(**more)) == words


def test_a_passive_says_whose_files_it_holds_and_what_was_put_in_place() -> None:
    staged = {
        "epoch": [5, "vs-166"], "complete": {"/etc/shadow": NOW - 200}, "received": {"/etc/shadow": NOW - 4}, "doubts": {},
    }  # fmt: skip
    said = cli_files.lines(found(role="passive", staged=staged), NOW)
    assert said[0] == "this server is passive, staged here from vs-166 in epoch 5"
    assert "4.0 s ago" in said[2] and "3 min ago" in said[2]
    placed = {"epoch": [6, "vs-28"], "kept": "6-vs-28-x", "placed": 2, "same": 1, "removed": 0, "wrong": ["w"], "newer": ["n"]}
    said = cli_files.lines(found(placed=placed, alarms={"files": "late", "x": ""}, connected=False, why="no session"), NOW)
    assert said[0] == "not copied now: no session" and said[-1] == "! late"
    assert said[3:7] == ["put in place in epoch 6/vs-28: 2, 1 the same, 0 removed", "  w", "  n",
                         "  what they replaced: ha files restore 6-vs-28-x"]  # fmt: skip


@pytest.mark.parametrize(
    "states, words",
    [
        ([{"done": 0}, {"done": 1}], ""),
        ([{"done": 0, "progress": "12 MiB sent, 4 %, 9.00MB/s"}] * 2, "lack the latest changes of /etc/shadow (12 MiB sent"),
        ([{"done": 0, "error": "No space left on device"}], "of /etc/shadow (No space left on device)"),
        ([NotRunning("it is not running")], "replicated files: it is not running"),
        ([HaError("nothing can be copied now: no session")], "replicated files: nothing can be copied now"),
    ],
)
def test_a_planned_failover_waits_for_files_and_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, states: list[Any], words: str
) -> None:
    said = list(states)

    def ask(do: str, fields: Any = None) -> dict[str, Any]:
        if isinstance(said[0], HaError):
            raise said[0]
        if do == "sync":
            return {"tickets": {"/etc/shadow": 1, "/not/there/any/more": 1}}
        return found(entries=[entry(**(said.pop(0) if len(said) > 1 else said[0]))])

    monkeypatch.setattr(cli_files, "_ask", ask)
    monkeypatch.setattr(cli_files, "_named", lambda: True)
    lacking = cli_files.before_failover(0.3)
    assert words in lacking if words else lacking == ""
    monkeypatch.setattr(cli_files, "_named", lambda: False)
    if isinstance(states[0], NotRunning):
        assert cli_files.before_failover(0.3) == ""


def test_what_was_replaced_is_listed_and_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f"
    target.write_text("new")
    kept = tmp_path / "kept"
    (kept / f"6-vs-28{tmp_path}").mkdir(parents=True)
    (kept / f"6-vs-28{tmp_path}/f").write_text("old")
    monkeypatch.setattr(cli_files, "_kept", lambda: kept)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    run = CliRunner().invoke
    assert run(main, ["files", "restore"]).output == "6-vs-28  1 files\n"
    assert run(main, ["Files", "restore", "nothing", "--force"]).exit_code == 1
    done = run(main, ["files", "restore", "6-vs-28", "--force"])
    assert done.exit_code == 0 and done.output.startswith("1 files are back")
    assert target.read_text() == "old"
    again = done.output.split()[-1]
    assert run(main, ["files", "restore", again], input="y\n").exit_code == 0 and target.read_text() == "new"


def config_with(tmp_path: Path, name: str) -> Config:
    return loaded(tmp_path, EXAMPLE.replace("/etc/policyserver/.license", name))


@pytest.mark.parametrize(
    "name",
    [
        "/etc", "/etc/ha_manager/keys", "/var/lib", "/var/lib/ha_manager/x", "/opt/finjan/configuration", "/proc/1", "/run",
        "/opt/finjan/configuration/ha/x", "/dev/null",
    ],
)  # fmt: skip
def test_what_must_never_be_copied_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "module.xml").write_text(EXAMPLE.replace("/etc/policyserver/.license", name))
    with pytest.raises(ConfigError, match="can't be replicated, because of"):
        load(HERE, module_xml=tmp_path / "module.xml", conf=tmp_path / "none.conf", uname="vs-166")


def test_a_path_is_taken_as_what_it_means(tmp_path: Path) -> None:
    assert config_with(tmp_path, "/etc//policyserver/./x/").site.files[0].name == "/etc/policyserver/x"
    with pytest.raises(ConfigError, match="stands twice"):
        config_with(tmp_path, "/etc//shadow")
    assert (Host().files.bandwidth, Host().files.checksum) == (0, 24)
    assert Site.__dataclass_fields__["files_port"].default == 4590
