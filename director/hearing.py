"""Does anything at all reach this node? A director that only sends is heard by its backup, which therefore never takes over.

Promise: ``look``, once a second, is true when no other member is heard and no frame came in since the look before; false again
when a member was heard, or when frames came in at ``STEADY`` looks in a row (single ones may be the switch's own), and then not
again before a member was heard. So a director whose peers have really died goes on, whatever its network is like. Pure. Source:
issue "director"; VRRP has nothing against it.

Members that fell silent all at once may serve on: while ``doubts`` is true, nobody's connection is to be reset for that they
can't be asked about it. When they are heard again, clients are heard first.
"""

from __future__ import annotations

STEADY = 3
#: looks after the first member was heard again; the others have more than a second by then
AFTER = 2


class Hearing:
    def __init__(self) -> None:
        self.deaf = False
        self._frames: int | None = None
        self._heard = False
        self._row = 0  # of looks at which there were new frames
        self._doubt = 0  # looks

    def look(self, alone: bool, frames: int) -> bool:
        """``alone``: this node directs a group of which it hears nobody. ``frames``: received on the interface so far.

        Returns whether this node is deaf.
        """
        if not alone:
            self._doubt = max(0, self._doubt - 1)
            self._frames, self._heard, self._row, self.deaf = None, False, 0, False
        elif self._frames is None:
            self._frames = frames
        else:
            self._doubt = 0
            self._row = self._row + 1 if frames != self._frames else 0
            self._frames = frames
            self._heard = self._heard or self._row >= STEADY
            self.deaf = not self._heard and (self.deaf or self._row == 0)
        return self.deaf

    def doubts(self, alone: bool) -> bool:
        """Is it perhaps this node that doesn't hear, or didn't a moment ago? No more, once frames came in between two looks."""
        if alone and (self.deaf or not (self._row or self._heard)):
            self._doubt = AFTER
        return self._doubt > 0
