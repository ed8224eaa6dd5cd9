"""Fence devices as ha.cf names them: ``fence AGENT KEY=VALUE…`` and Linux-HA's ``stonith_host NODE AGENT KEY=VALUE…``.

Promise: a secret stands in a file of its own that only root can read, never in ha.cf, which anybody may read and which
``cl_status hbparameter`` prints; an agent that isn't there, or an option that can't be meant, is a ConfigError with file, line
and remedy before anything was changed. Nothing here keeps a secret. Source: ha.cf(5), ``stonith_host`` (its first word is the
node that can reach the device, or ``*``); the fence agent API.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import ConfigError

#: where agents are looked for, and what they find their own programs with
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPTION = re.compile(r"([a-z][a-z0-9_-]{0,63})=(\S*)\Z", re.IGNORECASE)
_SECRET = re.compile(r"passw|secret|token|community|private", re.IGNORECASE)
_OURS = ("action", "option")
_LIMIT = 65536


@dataclass(frozen=True)
class Agent:
    """One device. ``options`` are without secrets; ``secrets`` is the file that has them, or ""."""

    program: str
    options: tuple[tuple[str, str], ...] = ()
    secrets: str = ""

    @property
    def name(self) -> str:
        return os.path.basename(self.program)


@dataclass(frozen=True)
class FenceLine:
    """One directive. ``host``: the node that runs the agent, or ``*``; "{peer}" in a value stands for the other node."""

    host: str
    agent: Agent
    line: int


def read_line(host: str, agent: str, words: Sequence[str], file: str, line: int) -> FenceLine:
    """One directive's words, judged by themselves."""

    def error(message: str, remedy: str) -> ConfigError:
        return ConfigError(message, file=file, line=line, remedy=remedy)

    if not os.path.basename(agent).startswith("fence_"):
        raise error(f"{agent!r} is no fence agent: their names begin with fence_", "write one that `ls /usr/sbin/fence_*` has")
    options: dict[str, str] = {}
    for word in words:
        match = _OPTION.match(word)
        name = match[1] if match else ""
        if match is None:
            raise error(f"{agent}: {word.partition('=')[0]!r} is no option", "write KEY=VALUE, as in ip=10.0.0.9")
        if name in _OURS:
            raise error(f"{agent}: {name} is heartbeat's to say: off, and then status", f"remove {name}=")
        if name in options:
            raise error(f"{agent}: {name} is there twice", "keep one of them")
        if name != "secrets" and _SECRET.search(name) and not name.endswith("_script"):
            raise error(
                f"{agent}: {name} is a secret, and this file is no place for one",
                f"write it as {name}=… into a file that only root can read, and secrets=THAT FILE here",
            )
        options[name] = match[2]
    secrets = options.pop("secrets", "")
    if secrets and not os.path.isabs(secrets):
        raise error(f"{agent}: secrets={secrets} is no full path", "write: secrets=/etc/heartbeat/fence.secrets")
    return FenceLine(host, Agent(agent, tuple(options.items()), secrets), line)


def agents(lines: Sequence[FenceLine], file: str, node: str, peer: str) -> tuple[Agent, ...]:
    """What ``node`` switches ``peer`` off with, in the order of the file; checked against what this host has."""
    found = []
    for each in lines:
        if each.host not in ("*", node, peer):
            raise ConfigError(
                f"{each.host} is none of the nodes", file=file, line=each.line, remedy="write a node's name, or *"
            )
        if each.host == peer:
            continue
        program = shutil.which(each.agent.program, path=PATH)
        if program is None:
            raise ConfigError(
                f"fence agent {each.agent.program} is not installed", file=file, line=each.line,
                remedy="apt-get install fence-agents; without it this server could never take over from a dead one",
            )  # fmt: skip
        if each.agent.secrets:
            read_secrets(each.agent.secrets)
        options = tuple((name, value.replace("{peer}", peer)) for name, value in each.agent.options)
        found.append(Agent(program, options, each.agent.secrets))
    return tuple(found)


def read_secrets(file: str) -> dict[str, str]:
    """The options in ``file``, which nobody but root may read. ConfigError tells the line, never what it says."""
    remedy = f"chown root {file}; chmod 600 {file}"
    try:
        with open(file, encoding="utf-8") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError("isn't a file", file=file, remedy="give the file that has the fence agent's secrets")
            if status.st_mode & 0o077 or status.st_uid != os.geteuid():
                mode = stat.S_IMODE(status.st_mode)
                said = f"has mode {mode:04o} and owner {status.st_uid}: others than root can get at the secrets"
                raise ConfigError(said, file=file, remedy=remedy)
            text = opened.read(_LIMIT)
    except UnicodeDecodeError as error:
        raise ConfigError("isn't a text file", file=file, remedy="write lines of KEY=VALUE") from error
    except OSError as error:
        raise ConfigError(f"can't be read: {error.strerror}", file=file, remedy="correct secrets= of the fence line") from error
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, sign, value = line.strip().partition("=")
        if not sign or not _OPTION.match(f"{name}=") or name in _OURS:
            raise ConfigError("is no option of a fence agent", file=file, line=number, remedy="write KEY=VALUE, as in passwd=…")
        options[name] = value
    return options
