"""Does anything at all reach this node? A director that only sends is heard by its backup, which therefore never takes over.

Promise: ``look`` is true from the second look on, a second after the last other member fell silent, if the interface received
no frame between the two, and false again with the first one; then not again before a member was heard. So a director whose
peers have really died goes on, whatever its network is like. Pure. Source: issue "director"; VRRP has nothing against it.
"""

from __future__ import annotations


class Hearing:
    def __init__(self) -> None:
        self.deaf = False
        self._frames: int | None = None
        self._heard = False

    def look(self, alone: bool, frames: int) -> bool:
        """``alone``: this node directs a group of which it hears nobody. ``frames``: received on the interface so far.

        Returns whether this node is deaf.
        """
        if not alone:
            self._frames, self._heard = None, False
        elif self._frames is None:
            self._frames = frames
            return self.deaf
        elif frames != self._frames:
            self._heard = True
        self.deaf = alone and not self._heard
        return self.deaf
