"""Fence devices in ha.cf, and running agents: small scripts play them."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import pytest

from heartbeat.fence_lines import Agent, FenceLine, agents, read_line, read_secrets
from heartbeat.fencing import Fencer, Outcome, check, fence, last_line
from runtime.errors import ConfigError

#: off, status and monitor as its folder says; what it was told is kept there
AGENT = """#!/bin/sh
cat > {folder}/told.$$
action=$(sed -n 's/^action=//p' {folder}/told.$$)
mv {folder}/told.$$ {folder}/told.$action
tr '\\0' ' ' < /proc/$$/cmdline > {folder}/argv
echo "some words" >&2
. {folder}/$action
"""


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    program = tmp_path / "fence_test"
    program.write_text(AGENT.format(folder=tmp_path))
    program.chmod(0o755)
    secrets = tmp_path / "secrets"
    secrets.write_text("# of the power switch\npasswd=open sesame\n")
    secrets.chmod(0o600)
    for action, body in (("off", "exit 0"), ("status", "exit 2"), ("monitor", "exit 0")):
        (tmp_path / action).write_text(body + "\n")
    return Agent(str(program), (("ip", "10.0.0.9"), ("plug", "vs-28")), str(secrets))


def told(agent: Agent, action: str) -> list[str]:
    return (Path(agent.program).parent / f"told.{action}").read_text().splitlines()


def answers(agent: Agent, action: str, body: str) -> None:
    (Path(agent.program).parent / action).write_text(body + "\n")


def test_switched_off_and_verified(agent: Agent) -> None:
    assert fence([agent], "vs-28", 5.0) == (True, "fence_test switched vs-28 off")
    assert told(agent, "off") == ["ip=10.0.0.9", "plug=vs-28", "passwd=open sesame", "action=off"]
    assert told(agent, "status")[-1] == "action=status"
    assert "sesame" not in (Path(agent.program).parent / "argv").read_text()


@pytest.mark.parametrize(
    ("action", "body", "text"),
    [
        ("off", "echo no such plug; exit 1", "fence_test off ended with 1: no such plug"),
        ("off", "echo tried 'open sesame'; exit 1", "fence_test off ended with 1: tried ***"),
        ("off", "kill -9 $$", "fence_test off was killed by signal 9: some words"),
        ("status", "exit 0", "fence_test said that vs-28 is off, but its status says that it is on"),
        ("status", "exit 1", "fence_test said that vs-28 is off, but its status can't be told: fence_test status ended with 1:"
         " some words"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_a_failure(agent: Agent, action: str, body: str, text: str) -> None:
    answers(agent, action, body)
    assert fence([agent], "vs-28", 5.0) == (False, text)


def test_an_agent_that_takes_too_long_is_ended_with_all_it_started(agent: Agent) -> None:
    pid_file = Path(agent.program).parent / "sleeper"
    answers(agent, "off", f"sleep 60 & echo $! > {pid_file}; wait")
    assert fence([agent], "vs-28", 0.3) == (False, "fence_test off took too long")
    sleeper = int(pid_file.read_text())
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{sleeper}") and "Z" not in Path(f"/proc/{sleeper}/stat").read_text().split()[2]:
        assert time.monotonic() < end, "it is still there"


def test_an_agent_that_does_not_listen_can_still_succeed(agent: Agent) -> None:
    Path(agent.program).write_text("#!/bin/sh\nexec <&-\nexit 0\n")
    assert fence([agent], "vs-28", 5.0)[1].endswith("its status says that it is on")


def test_the_next_one_is_tried(agent: Agent, tmp_path: Path) -> None:
    missing = Agent(str(tmp_path / "fence_missing"))
    assert fence([missing, agent], "vs-28", 5.0) == (True, "fence_test switched vs-28 off")
    ok, text = fence([missing], "vs-28", 5.0)
    assert not ok and text.startswith("fence_missing: ")
    assert not check([missing, agent], 5.0)[0]  # the check tells of each


def test_secrets_that_others_can_read_by_now_are_not_used(agent: Agent) -> None:
    Path(agent.secrets).chmod(0o640)
    ok, text = fence([agent], "vs-28", 5.0)
    assert not ok and "has mode 0640" in text


def ended(fencer: Fencer) -> Outcome:
    assert select.select([fencer], [], [], 10.0)[0]
    return fencer.outcome()


def test_beside_the_loop(agent: Agent) -> None:
    fencer = Fencer([agent], "vs-28", 5.0)
    fencer.start("check")
    assert fencer.running and ended(fencer) == Outcome("check", True, "the fence agents answer")
    assert not fencer.running
    fencer.start("fence")
    assert ended(fencer) == Outcome("fence", True, "fence_test switched vs-28 off")


def test_the_agent_ends_with_its_owner(agent: Agent) -> None:
    folder = Path(agent.program).parent
    os.mkfifo(folder / "fifo")
    answers(agent, "off", f"echo $$ > {folder}/fifo; exec sleep 60")
    fencer = Fencer([agent], "vs-28", 50.0)
    fencer.start("fence")
    pid = int((folder / "fifo").read_text())
    fencer.close()
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < end, "the agent outlived its owner"


def test_the_last_words_are_short_printable_and_without_secrets() -> None:
    assert last_line(b"a\nb\x1b[31m\n\n", {}) == "b[31m"
    assert last_line(b"x abc abcd y", {"passwd": "abc", "token": "abcd", "none": ""}) == "x *** *** y"
    assert len(last_line(b"z" * 1000, {})) == 200 and last_line(b"", {}) == ""


# --- the directive --------------------------------------------------------------------------------------------------------


def line(text: str) -> FenceLine:
    agent, *words = text.split()
    return read_line("*", agent, words, "ha.cf", 7)


def test_a_line() -> None:
    found = line("fence_ipmilan ip=10.0.0.9 plug={peer} password_script=/bin/x secrets=/etc/heartbeat/fence.secrets")
    assert found.agent.options == (("ip", "10.0.0.9"), ("plug", "{peer}"), ("password_script", "/bin/x"))
    assert found.agent.secrets == "/etc/heartbeat/fence.secrets" and found.line == 7


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ipmilan ip=1", "'ipmilan' is no fence agent"),
        ("fence_x 10.0.0.9", "fence_x: '10.0.0.9' is no option"),
        ("fence_x ip=1 ip=2", "fence_x: ip is there twice"),
        ("fence_x action=reboot", "fence_x: action is heartbeat's to say"),
        ("fence_x passwd=sesame", "fence_x: passwd is a secret"),
        ("fence_x snmp_priv_passwd=sesame", "fence_x: snmp_priv_passwd is a secret"),
        ("fence_x secrets=fence.secrets", "secrets=fence.secrets is no full path"),
    ],
)
def test_lines_that_are_refused(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        line(text)
    said = str(raised.value)
    assert error in said and "ha.cf" in said and "7" in said and "sesame" not in said


def test_each_node_runs_its_own(agent: Agent) -> None:
    lines = [FenceLine("vs-166", Agent(agent.program, (("plug", "{peer}"),)), 1), FenceLine("*", agent, 2),
             FenceLine("vs-28", agent, 3)]  # fmt: skip
    found = agents(lines, "ha.cf", "vs-166", "vs-28")
    assert found == (Agent(agent.program, (("plug", "vs-28"),)), agent)
    with pytest.raises(ConfigError, match="vs-1 is none of the nodes"):
        agents([FenceLine("vs-1", agent, 1)], "ha.cf", "vs-166", "vs-28")
    with pytest.raises(ConfigError, match="fence agent fence_nowhere is not installed"):
        agents([line("fence_nowhere ip=1")], "ha.cf", "vs-166", "vs-28")


def test_a_secrets_file_is_judged_without_telling_it(agent: Agent, tmp_path: Path) -> None:
    assert read_secrets(agent.secrets) == {"passwd": "open sesame"}
    bad = tmp_path / "bad"
    bad.write_text("login=ha\nsesame\n")
    bad.chmod(0o600)
    for file, error in ((bad, "is no option"), (tmp_path / "none", "can't be read"), (tmp_path, "can't be read")):
        with pytest.raises(ConfigError, match=error) as raised:
            read_secrets(str(file))
        assert "sesame" not in str(raised.value)
