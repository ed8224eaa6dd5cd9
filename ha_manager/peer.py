"""The peer's ha_manager, over the pinned session: what it is asked, what it is told.

Promise: nobody waits for the peer but this module's own threads; a session that is down is tried again for ever, and its
absence is told in words; an answer of another epoch is never taken for one of this. Source: docs/protocols.md ("The session
between the ha_managers"); design §4 rule 1, §6.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from ha_manager import __version__
from ha_manager.config import Config
from ha_manager.observation import Identity, Upstream
from ha_manager.orders import Epoch, Facts, Phase, Postgres, epoch_from
from ha_manager.outlook import PeerSigns
from runtime.errors import HaError, PeerError, Refused
from runtime.keys import Keys
from runtime.session import REACH, Caller, Handler, connect, serve
from runtime.suspension import suspended
from runtime.version import together

if TYPE_CHECKING:
    from runtime.session_client import Session
    from runtime.session_server import SessionServer, Subsystem

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.2, 1.0
#: A peer that heartbeat doesn't hear, or didn't until just now, is tried as often as that makes sense: a rejoin waits for the
#: session, and TCP would repeat the packet that was lost in the cut a second later (seconds; a peer is on the next switch).
EAGER, EAGER_REACH = 10.0, 0.4
LISTEN_AGAIN = 2.0
#: while heartbeat hears nothing, the peer is asked so often for its state (seconds)
ASK_PERIOD, ASK_LIMIT = 0.1, 0.3
#: while the peer's database is being copied, or could not serve (seconds)
TROUBLED_PERIOD = 1.0
#: a passive that asked for our database begins a copy within this time (seconds)
COPY_SEEN = 10.0
STAND_DOWN_LIMIT = 5.0

_REIGNING = frozenset({Phase.ACTIVE, Phase.PREPARING, Phase.PROMOTING, Phase.OPENING})


@dataclass(frozen=True)
class Own:
    """What the peer may hear of this server."""

    node: str
    epoch: Epoch
    phase: Phase
    heartbeat: bool
    postgres: str
    version: str
    #: only on a Linux-HA heartbeat (``linuxha``): commits don't wait, the position proven to wait for, who decides
    solo: bool = True
    proven: int = -1
    decider: str = "heartbeat"
    #: what is going on with its database, in words, while it is being copied
    copying: str = ""
    #: its Postgres offers TLS; None: not known
    tls: bool | None = None
    #: why its database could not serve now, in words; "" if it could
    because: str = ""


def lacks_standby(facts: Facts, said: Mapping[str, Any]) -> bool:
    """Of an active, by its ``facts`` and what heartbeat ``said``: the peer doesn't stream, or could not take over."""
    peer = said.get("peer_state", {})
    unfit = bool(peer.get("contact")) and peer.get("fit") is False
    return facts.postgres is Postgres.PRIMARY and (facts.behind < 0 or unfit)


class Home(Protocol):
    """This server, for the peer's questions; called from the session's threads."""

    def own(self) -> Own: ...

    def identity(self) -> Identity:
        """Of a primary; raises HaError if there is none here."""

    def inventory(self) -> dict[str, Any]:
        """What is installed here; raises HaError if it can't be looked at."""

    def port(self) -> int: ...

    def hand_over(self, asker: str, because: str, within: float) -> Epoch:
        """Ask our heartbeat to stand down because the peer can't hear it; returns the epoch in which it did. Raises HaError."""

    def lacks_standby(self) -> bool:
        """This server is active, and the peer could not take over: an operator will want to know what is the matter there."""

    def signs_changed(self) -> None:
        """``signs`` is new."""

    def reachable(self, why: str) -> None:
        """The session opened (""), or why it can't be."""


class Peer:
    """Both ends of the session. ``signs``, ``connected`` and ``why`` may be read from any thread."""

    def __init__(
        self,
        config: Callable[[], Config],
        keys: Keys,
        home: Home,
        clock: Callable[[], float],
        subsystems: Mapping[str, Subsystem] | None = None,
    ) -> None:
        self._config = config
        self._subsystems = subsystems
        self._keys = keys
        self._home = home
        self._clock = clock
        self._session: Session | None = None
        self._server: SessionServer | None = None
        self._wake = threading.Event()
        self._ended = False
        self._asked_at = -inf
        #: who wants to know the peer's state now
        self._askers: deque[Callable[[], None]] = deque()
        self._copies_until = -inf
        self._ask_down = ""
        #: what the peer said last against standing down: logged once
        self._refusal = ""
        self._silent = False
        self._eager_until = -inf
        self._node = ""
        self.signs = PeerSigns()
        self.why = "not tried yet"
        self.listening = ""
        #: what the peer answered last, for status
        self.state: dict[str, Any] = {}
        #: when that was asked
        self.told_at = -inf

    @property
    def connected(self) -> bool:
        return self._session is not None and self._session.alive

    # --- what this server wants to know ---------------------------------------------------------------------------------

    def silent(self, silent: bool) -> None:
        """Heartbeat hears nothing (or hears the peer again): ask the peer's ha_manager instead."""
        if silent is not self._silent:
            self._eager_until = self._clock() + EAGER
            self._wake.set()
        self._silent = silent

    def ask_stand_down(self, because: str) -> None:
        """Ask for as long as ``because`` is not empty."""
        if because and not self._ask_down:
            self._wake.set()
        self._ask_down = because

    def ask(self, then: Callable[[], None]) -> None:
        """Ask for the peer's state now; ``then`` runs, in this object's thread, when it has answered or can't be asked."""
        self._askers.append(then)
        self._wake.set()

    def wake(self) -> None:
        """It is time to ask for the peer's state, or to try again to connect."""
        self._wake.set()

    def reset(self) -> None:
        """Configuration or keys are new: begin again."""
        if self._session is not None:
            self._session.close()
        self._wake.set()

    def upstream(self, follow: Epoch) -> Upstream:
        config = self._config()
        port, tls = self.state.get("port"), self.state.get("tls")
        if not isinstance(port, int):
            port = self._home.port()
        return Upstream(config.peer, follow.number, config.peer_ip, port, tls if isinstance(tls, bool) else None)

    def identity(self, follow: Epoch) -> Identity | None:
        """The active's database, from itself, in this very epoch; None if it can't be asked or is not (yet) what we follow."""
        session = self._session
        if session is None or not session.alive:
            return None
        try:
            answer = session.request("replication", timeout=5.0)
            if epoch_from(answer.get("epoch")).number != follow.number:
                return None
            self.state["port"] = int(answer["port"])
            return Identity.from_json(answer["identity"])
        except (PeerError, KeyError, TypeError, ValueError) as wrong:
            log.info("the active can't tell its database yet: %s", wrong)
            return None

    def versions_apart(self) -> str:
        """Why this server is not to begin as the passive of that one (Trustwave §1.1); "" if it may, or nothing is known."""
        theirs = str(self.state.get("version", ""))
        if not theirs or theirs == __version__:
            return ""
        paths = self._config().host.paths
        return together(__version__, self._node, theirs, suspended=suspended(paths.heartbeat_run / "control"))

    def inventory(self) -> dict[str, Any] | None:
        """What the peer has installed; None while it can't be asked."""
        session = self._session
        if session is None or not session.alive:
            return None
        answer: dict[str, Any] = session.request("inventory", timeout=5.0)
        return answer

    # --- the client's thread --------------------------------------------------------------------------------------------

    def end(self) -> None:
        self._ended = True
        self._wake.set()
        if self._session is not None:
            self._session.close()
        if self._server is not None:
            self._server.close()

    def run(self) -> None:
        """Keep a session open; ask what is to be asked."""
        wait = RETRY_FIRST
        while not self._ended:
            askers = [self._askers.popleft() for _ in range(len(self._askers))]
            if not self.connected:
                wait = RETRY_FIRST if self.try_to_connect() or self._eager else min(RETRY_MOST, wait * 2)
            if self.connected:
                self._converse(at_once=bool(askers))
                wait = self._pause()
            for then in askers:
                then()
            self._wake.wait(wait)
            self._wake.clear()

    @property
    def _eager(self) -> bool:
        return self._silent or self._clock() < self._eager_until

    def _pause(self) -> float:
        urgent = self._silent or self._ask_down
        return ASK_PERIOD if urgent else min(1.0, self._config().site.passive_status_interval)

    def try_to_connect(self) -> bool:
        """Once; True if the peer said hello."""
        config, reach = self._config(), EAGER_REACH if self._eager else REACH
        try:
            self._session = connect(config.peer_ip, self._keys, self._epoch, port=config.site.port, timeout=3.0, reach=reach)
            hello = self._session.request("hello", timeout=3.0)
        except HaError as wrong:
            if self._session is not None:
                self._session.close()  # open, but it did not say hello: not one to go on with
            if str(wrong) != self.why:
                log.info("no session with the peer's ha_manager: %s", wrong)
            self.why = str(wrong)
            self._home.reachable(self.why)
            return False
        self._node, self.why = str(hello.get("node", "")), ""
        self.state["tls"] = hello.get("tls")
        self.state["version"] = str(hello.get("version", ""))
        log.info("session with ha_manager on %s (%s) is open", self._node, config.peer_ip)
        self._home.reachable("")
        return True

    def _epoch(self) -> tuple[int, str]:
        epoch = self._home.own().epoch
        return (epoch.number, epoch.node)

    def _converse(self, at_once: bool) -> None:
        now, session = self._clock(), self._session
        assert session is not None
        urgent, interval = self._silent or self._ask_down, self._config().site.passive_status_interval
        copying = bool(self.state.get("copying")) or now < self._copies_until
        troubled = copying or bool(self.state.get("because")) or self._home.lacks_standby()
        usual = min(TROUBLED_PERIOD, interval) if troubled else interval
        if not at_once and now - self._asked_at < (ASK_PERIOD * 0.9 if urgent else usual):
            return
        self._asked_at = now
        try:
            state = session.request("state", timeout=ASK_LIMIT if urgent else 3.0)
            self._take_state(state, now)
            if self._ask_down:
                self._request_stand_down(session)
        except PeerError as wrong:
            if not session.alive:
                self.why = str(wrong)
                self._home.reachable(self.why)

    def _take_state(self, state: dict[str, Any], asked_at: float) -> None:
        self.state, self.told_at = self.state | state, asked_at
        try:
            epoch = epoch_from(state.get("epoch"))
        except ValueError:
            epoch = Epoch()
        if epoch not in (Epoch(), self.signs.epoch):
            # Rule 8: also where no heartbeat gets through, whoever is behind must learn it.
            self._sign(replace(self.signs, epoch=epoch))
        try:
            phase = Phase(str(state.get("phase")))
        except ValueError:
            return
        if phase in _REIGNING and state.get("heartbeat") is True:
            # As old as the question: the answer can't be older, and a hung peer gives none.
            self._sign(replace(self.signs, active_at=asked_at))

    def _request_stand_down(self, session: Session) -> None:
        because = self._ask_down
        try:
            answer = session.request("stand_down", timeout=STAND_DOWN_LIMIT, because=because)
            epoch = epoch_from(answer.get("epoch"))
        except (PeerError, ValueError) as wrong:
            if str(wrong) != self._refusal:
                self._refusal = str(wrong)
                log.warning("the peer was asked to stand down (%s): %s", because, wrong)
            return
        self._refusal = ""
        log.warning("the peer stood down in epoch %s, as asked: %s", epoch, because)
        self._sign(replace(self.signs, stood_down=epoch))

    def _sign(self, signs: PeerSigns) -> None:
        self.signs = signs
        self._home.signs_changed()

    # --- the server -----------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Serve the peer's questions; tried again until the address can be listened on. In a thread of its own."""
        pause = threading.Event()
        while not self._ended and self._server is None:
            config = self._config()
            try:
                self._server = serve(
                    self._keys, self.handlers(), [config.own_ip], port=config.site.port, subsystems=self._subsystems
                )
                self.listening = ""
            except HaError as wrong:
                if self.listening != str(wrong):
                    log.error("the peer's ha_manager can't be answered: %s", wrong)
                self.listening = str(wrong)
                pause.wait(LISTEN_AGAIN)

    def handlers(self) -> dict[str, Handler]:
        return {
            "hello": self._hello,
            "state": self._state,
            "stand_down": self._stand_down,
            "replication": self._replication,
            "inventory": lambda fields, caller: self._home.inventory(),
        }

    def _hello(self, fields: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
        own = self._home.own()
        return {"node": own.node, "version": own.version, "epoch": list(own.epoch), "tls": own.tls} | self._database()

    def _database(self) -> dict[str, Any]:
        try:
            identity = self._home.identity()
        except HaError:
            return {"system_identifier": "", "timeline": 0}
        return {"system_identifier": identity.system_identifier, "timeline": identity.timeline}

    def _state(self, fields: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
        own = self._home.own()
        return {
            "node": own.node, "phase": own.phase.value, "heartbeat": own.heartbeat, "postgres": own.postgres,
            "epoch": list(own.epoch), "port": self._home.port(), "version": own.version,
            "solo": own.solo, "proven": own.proven, "decider": own.decider, "copying": own.copying, "tls": own.tls,
            "because": own.because,
        }  # fmt: skip

    def _stand_down(self, fields: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
        own = self._home.own()
        if own.phase not in _REIGNING:
            raise Refused(f"{own.node} is {own.phase}, not active")
        if caller.epoch[0] != own.epoch.number:
            raise Refused(f"{own.node} is active in epoch {own.epoch}; {caller.node} knows epoch {caller.epoch[0]}")
        epoch = self._home.hand_over(caller.node, str(fields.get("because", ""))[:500], caller.within)
        return {"epoch": list(epoch)}

    def _replication(self, fields: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
        own = self._home.own()
        if own.phase not in _REIGNING:
            raise Refused(f"{own.node} is {own.phase}, not active")
        identity = self._home.identity()
        # It will rejoin, or have a copy made: how that goes is worth knowing here.
        self._copies_until = self._clock() + COPY_SEEN
        return {"epoch": list(own.epoch), "port": self._home.port(), "identity": identity.as_json()}
