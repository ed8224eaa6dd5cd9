"""heartbeat as one more Linux-HA node: the same loop, another core (``compatibility linux-ha`` in ha.cf).

Promise: everything but the decisions and the words on the wire is as in ``loop``. The generation grows above the one that a
Linux-HA heartbeat left on this server, and is left for it in turn, so that either may follow the other here.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from heartbeat.edge import Edge, Hands
from heartbeat.linuxha import LinuxHaCore
from heartbeat.linuxha_radio import LinuxHaRadio
from heartbeat.loop import Daemon
from heartbeat.model import Effect, HeardFrame, NewRun, Record, SendFrame
from heartbeat.store import Store
from runtime.clock import boottime
from runtime.durable import write_durably

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heartbeat.model import Boot

log = logging.getLogger(__name__)


class Generation:
    """Linux-HA's own file beside ours: decimal, as it is written there."""

    def __init__(self, store: Store) -> None:
        self._ours = store.generation_file
        self._theirs = store.folder / "hb_generation"

    def next(self, stored: int) -> int:
        """``stored``, or one above Linux-HA's."""
        try:
            theirs = int(self._theirs.read_text().strip())
        except (OSError, ValueError):
            theirs = 0
        generation = max(stored, theirs + 1)
        self.leave(generation)
        return generation

    def leave(self, generation: int) -> None:
        for file in (self._ours, self._theirs):
            if file is self._theirs and not file.exists():
                continue
            try:
                write_durably(file, f"{generation}\n", mode=0o600, durable=False)
            except OSError as error:
                log.error("%s can't be written: %s", file, error.strerror)


class LinuxHaEdge(Edge):
    """Knows the two effects that only this core gives."""

    def __init__(
        self, core: LinuxHaCore, hands: Hands, role_expiry: float, radio: LinuxHaRadio, generation: Generation
    ) -> None:
        super().__init__(core, hands, role_expiry, boottime)
        self._radio = radio
        self._generation = generation

    def _carry_out(self, effect: Effect, now: float) -> None:
        match effect:
            case SendFrame(fields):
                self._radio.transmit(fields)
                if fields.get("t") == "status":
                    self._tell_role(now)
            case NewRun(generation):
                self._generation.leave(generation)
            case _:
                super()._carry_out(effect, now)


class LinuxHaDaemon(Daemon):
    def _decide(self, boot: Boot, record: Record, now: float) -> LinuxHaCore:
        self._generation = Generation(self._store)
        return LinuxHaCore(self._config.site, self._config.timing, self._generation.next(boot.generation), record, now)

    def _speak(self) -> LinuxHaRadio:
        config = self._config
        self._frames = LinuxHaRadio(
            self._links, config.keyring, config.site.node, config.timing, 2 + len(config.ping_groups), boottime,
            Path(self._store.folder) / "hb_uuid",
        )  # fmt: skip
        return self._frames

    def _act(self, hands: Hands) -> LinuxHaEdge:
        assert isinstance(self.core, LinuxHaCore)
        return LinuxHaEdge(self.core, hands, self._config.timing.role_expiry, self._frames, self._generation)

    def _listen(self) -> Sequence[HeardFrame]:
        return self._frames.heard_frames()
