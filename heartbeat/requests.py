"""What heartbeat answers on its control socket (docs/protocols.md, "heartbeat").

Promise: reading requests change nothing; requests that would change something become events of the core and are answered by its
own words. Bad arguments are refused before the core hears of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from heartbeat.edge import Edge
from heartbeat.manager_link import ManagerLink
from heartbeat.model import Activate, Event, Leave, Phase, Role, Standby, Suspend
from runtime.control import Handler, Request
from runtime.errors import Refused

_KINDS = ("handover", "off", "restart")
_MOST = 100


class Core(Protocol):
    """``election.Core``, or ``linuxha.LinuxHaCore``."""

    @property
    def role(self) -> Role: ...

    phase: Phase

    def status(self, now: float) -> dict[str, object]: ...
    def explain(self, now: float) -> list[str]: ...


class Requests:
    """``extra``: what the daemon adds to the status; ``parameters``: ha.cf as written."""

    def __init__(
        self,
        core: Core,
        edge: Edge,
        manager: ManagerLink,
        clock: Callable[[], float],
        extra: Callable[[], Mapping[str, Any]],
        parameters: Callable[[], Mapping[str, str]],
    ) -> None:
        self._core = core
        self._edge = edge
        self._manager = manager
        self._clock = clock
        self._extra = extra
        self._parameters = parameters

    def handlers(self) -> dict[str, Handler]:
        return {
            "status": self._status,
            "explain": lambda request: {"lines": self._core.explain(self._clock())},
            "history": self._history,
            "parameters": lambda request: {"parameters": dict(self._parameters())},
            "subscribe": self._subscribe,
            "manager": self._manager_connects,
            "facts": self._facts,
            # ha_manager's reports carry no ``do``
            "": self._facts,
            "standby": lambda request: self._ask(request, Standby(_by(request), _flag(request, "force"), _which(request))),
            "activate": lambda request: self._ask(request, Activate(_by(request), _flag(request, "force"), _which(request))),
            "suspend": lambda request: self._ask(request, Suspend(_by(request), True)),
            "resume": lambda request: self._ask(request, Suspend(_by(request), False)),
            "leave": self._leave,
        }

    def _status(self, request: Request) -> Mapping[str, Any]:
        status = dict(self._core.status(self._clock()))
        alarms = status.get("alarms")
        status["alarms"] = {**(alarms if isinstance(alarms, dict) else {}), **self._edge.alarms}
        return {**status, **self._extra()}

    def _history(self, request: Request) -> Mapping[str, Any]:
        last = request.fields.get("last", _MOST)
        if not isinstance(last, int) or isinstance(last, bool) or last < 1:
            raise Refused(f"last can't be {last!r}: a number of changes is meant")
        return {"changes": list(self._edge.changes)[-min(last, _MOST) :]}

    def _subscribe(self, request: Request) -> Mapping[str, Any]:
        request.subscribe()
        return {"role": self._core.role, "phase": self._core.phase}

    def _manager_connects(self, request: Request) -> None:
        request.answer()
        self._manager.connected(request.channel, self._clock(), greets=request.fields.get("greets") is True)

    def _facts(self, request: Request) -> None:
        if "facts" not in request.fields:
            raise Refused("a request needs `do`; ha_manager's report needs `facts`")
        facts = self._manager.facts(request.channel, request.fields["facts"], self._clock())
        if facts is not None:
            self._edge.feed(facts)

    def _leave(self, request: Request) -> None:
        kind = request.fields.get("kind", "handover")
        if kind not in _KINDS:
            raise Refused(f"kind can't be {kind!r}; it is one of {', '.join(_KINDS)}")
        self._ask(request, Leave(_by(request), kind))

    def _ask(self, request: Request, event: Event) -> None:
        self._edge.feed(event, request)


def _by(request: Request) -> str:
    by = request.fields.get("by", "an operator")
    if not isinstance(by, str) or not 0 < len(by) <= 100 or not by.isprintable():
        raise Refused(f"by can't be {by!r}: a short word for who asks is meant")
    return by


def _which(request: Request) -> str:
    which = request.fields.get("which", "all")
    if which not in ("all", "local", "foreign", "failback"):
        raise Refused(f"which can't be {which!r}; it is one of all, local, foreign, failback")
    return str(which)


def _flag(request: Request, name: str) -> bool:
    value = request.fields.get(name, False)
    if not isinstance(value, bool):
        raise Refused(f"{name} is true or false, not {value!r}")
    return value
