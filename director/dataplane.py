"""The director's rules in the kernel: loaded, kept, repaired, removed.

Promise: the kernel holds exactly what ``load`` and ``update`` were given, in the director's own three tables; each change is
one transaction, so no packet meets half of it. What another program did to them is found by ``check`` (cheap while nobody
changes anything), said in words and mended. ``remove`` leaves nothing behind, the settings of the kernel included. NftError
means that the kernel can't: nothing was changed then, and the traffic stays with whoever holds the VIP. Source:
facts/vrrp-and-data-plane.md.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from director import plane, ruleset
from director.generation import Generation
from director.plane import TABLES, Content, Elements, Layout
from director.sysctls import Sysctls
from runtime import memory
from runtime.nft import Nftables, NftError

log = logging.getLogger(__name__)

#: what the kernel's options are called that the rules need, to be said when it refuses them
NEEDS = (
    "CONFIG_NF_TABLES_NETDEV, NFT_FWD_NETDEV, NFT_HASH, NFT_REDIR, NFT_DUP_IPV4, NFT_DUP_IPV6, NFT_REJECT_IPV4, "
    "NFT_REJECT_IPV6, NF_CONNTRACK"
)
_CONNTRACK = "net/netfilter/nf_conntrack_"
#: A packet without a connection is invalid, and nothing else is: the rules answer invalid ones with a reset.
_SETTINGS = {f"{_CONNTRACK}tcp_loose": "0", f"{_CONNTRACK}tcp_be_liberal": "1", f"{_CONNTRACK}checksum": "0"}
#: Clients' packets come from a member's MAC, and leave as they came.
_ON_INTERFACE = {"rp_filter": "0", "send_redirects": "0", "accept_redirects": "0"}


class DataPlane:
    def __init__(
        self,
        nft: Callable[[], Nftables] = Nftables,
        settings: Sysctls | None = None,
        others: Callable[[], int] = lambda: 0,
    ) -> None:
        """Nothing happens yet. Belongs to one thread and one network namespace. ``others``: how often this process has changed
        the ruleset otherwise.
        """
        self._make = nft
        self._nft: Nftables | None = None
        self._generation: Generation | None = None
        self._settings = settings or Sysctls()
        self._others = others
        self._layout: Layout | None = None
        self._elements: Elements = {}
        self._expected: dict[str, str] = {}
        self._seen: int | None = None  # generation, less others, at which all was as it should be
        self._rested: int | None = None
        self.repaired = 0
        #: owns the table that others can't flush: it goes with this context
        self._guard: Nftables | None = None
        self.guarded = False

    @property
    def loaded(self) -> bool:
        return self._layout is not None

    def is_left_behind(self) -> bool:
        """Whether rules of another process are in force: of one that was killed, or stopped and still has connections."""
        with contextlib.suppress(NftError):
            return self._layout is None and bool(self._kernel().rules(plane.IP))
        return False

    def is_laid_out(self, layout: Layout) -> bool:
        """Whether ``update`` is enough."""
        return self._layout == layout

    def load(self, layout: Layout, content: Content) -> None:
        """Everything anew; connections go on. NftError: as it was before."""
        wanted = plane.elements(layout, content)
        try:
            self._kernel().run(ruleset.rules(layout, content))
        except NftError as refused:
            raise NftError(f"the kernel refuses the rules: {refused} (they need {NEEDS})") from refused
        self._layout, self._elements = layout, wanted
        self._guard_with(layout)
        self._settle()

    def update(self, content: Content) -> None:
        """Other members, other owners of buckets. Does nothing before ``load``."""
        if self._layout is None:
            return
        wanted = plane.elements(self._layout, content)
        if commands := plane.difference(self._elements, wanted):
            try:
                self._kernel().run(commands)
            except NftError:  # somebody has taken something away: all of it again
                self.repaired += 1
                self.load(self._layout, content)
                return
            if self._seen is not None:
                self._seen += 1  # if that is not what is read next, somebody else was at work, too
        self._elements = wanted

    def disturbed(self) -> bool:
        """Whether any program may have changed anything since all was as it should be (0.02 ms)."""
        return self._layout is not None and (self._seen is None or self._seen != self._now())

    def inspection(self) -> Inspection:
        """What to look at, by whom it may take: 30 ms."""
        return Inspection(self._make, dict(self._expected), dict(self._elements), self._others)

    def judge(self, found: Inspection, content: Content) -> str:
        """Mend what an inspection found; what it was, or "" (also if rules were changed here meanwhile)."""
        if self._layout is None or found.elements != self._elements or found.expected != self._expected:
            return ""
        if not found.problem:
            self._seen = found.generation
            return ""
        self.repaired += 1
        self.load(self._layout, content)
        return found.problem

    def check(self, content: Content) -> str:
        """All of the three in one."""
        if not self.disturbed():
            return ""
        inspection = self.inspection()
        inspection.run()
        return self.judge(inspection, content)

    def settings(self) -> list[str]:
        """See to it that the kernel's settings are as the rules need them; what can't be set, in words."""
        if self._layout is None:
            return []
        wanted = dict(_SETTINGS) | {f"net/ipv4/conf/all/{name}": value for name, value in _ON_INTERFACE.items()}
        for interface in self._layout.own:
            wanted |= {f"net/ipv4/conf/{interface}/{name}": value for name, value in _ON_INTERFACE.items()}
        return self._settings.ensure(wanted)

    def leave(self) -> dict[str, str]:
        """No clients are shared out any more; what the connections of this node need stays, for a ``custodian`` to remove.
        Returns the settings to be restored then.
        """
        with contextlib.suppress(NftError):
            self._kernel().run(ruleset.removal((plane.NETDEV,)))
        return self._settings.found

    def remove(self) -> None:
        """Nothing is left behind."""
        self._settings.restore()
        self._layout, self._elements, self._expected, self._seen = None, {}, {}, None
        with contextlib.suppress(NftError):
            self._kernel().run(ruleset.removal())
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def rest(self) -> None:
        """Give back what libnftables remembers of a ruleset, some MB, if it has changed. The next ``update``: 2 ms more."""
        if self._seen != self._rested:
            self._rested = self._seen
            for context in (self._nft, self._guard):
                if context is not None:
                    context.forget()
            memory.give_back()

    def close(self) -> None:
        for context in (self._nft, self._guard):
            if context is not None:
                context.close()
        self._guard = None
        if self._generation is not None:
            self._generation.close()
        self._nft = self._generation = None

    # --- inside -------------------------------------------------------------------------------------------------------

    def _kernel(self) -> Nftables:
        if self._generation is None:
            self._generation = Generation()
            self._generation.read()
        if self._nft is None:
            self._nft = self._make()
        return self._nft

    def _guard_with(self, layout: Layout) -> None:
        """Against the moment between another program's flush and the repair; a kernel before 5.12 goes without."""
        if self._guard is None:
            self._guard = self._make()
        try:
            self._guard.run(ruleset.guard(layout))
            self.guarded = True
        except NftError as refused:
            self.guarded = False
            log.info("the rules aren't guarded against a flush: %s", refused)

    def _now(self) -> int:
        assert self._generation is not None
        return self._generation.read() - self._others()

    def _settle(self) -> None:
        """What the kernel shows now is what is expected from now on."""
        before = self._now()
        self._expected = {table: self._kernel().rules(table) for table in TABLES}
        self._seen = before if before == self._now() else None


class Inspection:
    """A look at the tables, with a context of its own: for another thread of the same network namespace."""

    def __init__(
        self, make: Callable[[], Nftables], expected: dict[str, str], elements: Elements, others: Callable[[], int]
    ) -> None:
        self._make = make
        self.expected, self.elements = expected, elements
        self.generation: int | None = None
        self.problem = ""
        self._others = others

    def run(self) -> None:
        nft, generation = self._make(), Generation()
        try:
            before = generation.read() - self._others()
            self.problem = self._problem(nft)
            self.generation = before if before == generation.read() - self._others() else None
        finally:
            nft.close()
            generation.close()
            memory.give_back()

    def _problem(self, nft: Nftables) -> str:
        for table in TABLES:
            try:
                if nft.rules(table) != self.expected[table]:
                    return f"table {table} was changed by another program"
            except NftError:
                return f"table {table} was removed by another program"
        for (table, name), wanted in self.elements.items():
            listed = nft.run(f"list {'set' if name.startswith(plane.SETS) else 'map'} {table} {name}")
            if _elements(listed) != {_plain(key): value for key, value in wanted.items()}:
                return f"elements of {name} in table {table} were changed by another program"
        return ""


def _elements(listed: str) -> dict[str, str]:
    """``elements = { 0x00000001 : 02:…, … }`` of a listing."""
    inside = listed.partition("elements = {")[2].partition("}")[0]
    pairs = (each.strip().partition(" : ") for each in inside.split(",") if each.strip())
    return {_plain(key): _plain(value) for key, _, value in pairs}


def _plain(text: str) -> str:
    """Numbers are listed in hexadecimal, most of them."""
    return str(int(text, 0)) if text.startswith("0x") else text
