"""Many seeds over all cores.

Promise: a seed decides its schedule, its profile and its variant (cold start, fine pings, the aggressive times, a quorum
of ping nodes), so that
a number is all that is needed to see a failure again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pool, cpu_count
from random import Random

from heartbeat.arpcheck import ANNOUNCED
from heartbeat.election import Core
from heartbeat.rules import Rules
from heartbeat.timing import PROFILES, Timing

from .faults import Fault, Schedule
from .network import NODES, THREE_NODES
from .schedules import schedule_of
from .shrink import shrink
from .world import COARSE, RECOMMENDED, Result, Setting, play

#: faults of single ping nodes, where there are several: one that a server loses, one that is off
SOME_PING_NODE = tuple(member + off for members in THREE_NODES.values() for member in members for off in ("", " both"))


@dataclass(frozen=True)
class Variant:
    """How the seeds of a campaign are played."""

    most: int = 6
    #: how schedules are chosen (``schedules``); "all": the seed decides
    way: str = "mixed"
    symmetric: bool = False
    solo: str = "silence"
    strict: bool = False
    arp_check: bool = False
    fence: bool = False
    witnesses: int = 0
    #: synchronous="off" on both servers at the beginning; ``switching``: the seed decides, and module.xml is changed meanwhile
    asynchronous: bool = False
    switching: bool = False
    rules: type[Rules] = Rules
    core: type[Core] = Core

    def schedule(self, seed: int) -> Schedule:
        schedule = schedule_of(seed, self.way, self.most, self.symmetric)
        schedule += self._besides(seed)
        if self.switching:
            schedule += _switches(Random(f"switches {seed}"))
        if self.arp_check:
            # the entry says nothing until the start's announcements are over
            schedule = tuple(fault._replace(at=round(fault.at + ANNOUNCED, 2)) for fault in schedule)
        return schedule

    def _besides(self, seed: int) -> Schedule:
        """Faults of what stands beside the pair, where it is there; and of links and ping nodes, in some."""
        kinds = [("stranger", "")] * self.arp_check + [("port", "carrier")] * self.arp_check + [("unfenced", "")] * self.fence
        kinds += [("witness", str(number)) for number in range(self.witnesses)]
        random = Random(f"besides {seed}")
        chosen = random.sample(kinds, min(len(kinds), random.randrange(3)))
        if seed % 5 == 2:
            chosen.append((random.choice(("delay", "double")), random.choice(("0.05", "0.3", "1.0"))))
        if self.ping_quorum(seed) > 1:
            chosen += [("ping", random.choice(SOME_PING_NODE)) for _ in range(random.randint(1, 3))]
        return tuple(
            Fault(round(random.uniform(1.0, 6.0), 2), kind, random.choice(NODES), round(random.uniform(0.1, 6.0), 2), argument)
            for kind, argument in chosen
        )

    @staticmethod
    def ping_quorum(seed: int) -> int:
        return 2 if seed % 20 in (2, 16) else 1

    def timing(self, seed: int) -> Timing:
        return RECOMMENDED if seed % 20 == 7 else PROFILES["aggressive"] if seed % 20 == 13 or seed % 40 == 17 else COARSE

    @staticmethod
    def other_timing(seed: int) -> Timing | None:
        return {17: COARSE, 37: PROFILES["aggressive"]}.get(seed % 40)

    def play(self, seed: int, schedule: Schedule | None = None, tracing: bool = False) -> Result:
        chosen = self.schedule(seed) if schedule is None else schedule
        setting = Setting(
            self.solo, self.timing(seed), cold=seed % 10 == 9, strict=self.strict, rules=self.rules, core=self.core,
            arp_check=self.arp_check, fence=self.fence, witnesses=self.witnesses, ping_quorum=self.ping_quorum(seed),
            asynchronous=self.asynchronous or (self.switching and seed % 3 == 1), other_timing=self.other_timing(seed),
        )  # fmt: skip
        return play(seed, chosen, setting, tracing)

    def shrunk(self, result: Result) -> Schedule:
        return shrink(result.schedule, lambda schedule: self.play(result.seed, schedule).kind == result.kind)


def _switches(random: Random) -> Schedule:
    """Both servers' module.xml is changed, one soon after the other; perhaps changed back; at times only one of them is."""
    faults: list[Fault] = []
    at = random.uniform(0.8, 4.0)
    for _ in range(random.randint(1, 3)):
        words = ("on", "off", "off") if random.random() < 0.8 else ("release", "silence")
        word = random.choice(words)
        for node in random.sample(NODES, 2 if random.random() < 0.9 else 1):
            faults.append(Fault(round(at, 3), "mode", node, 0.0, word))
            at += random.choice((0.0, 0.01, 0.1, 0.5, 2.0)) * random.random()
        at += random.expovariate(0.7)
    return tuple(faults)


@dataclass
class Tally:
    """What came out of a campaign."""

    runs: int = 0
    blind: int = 0
    acked: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    failed: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.runs += 1
        self.blind += result.blind
        self.acked += result.acked
        self.seconds += result.seconds
        if result.failures:
            self.kinds[result.kind] += 1
            self.failed.append(result)

    def __str__(self) -> str:
        what = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items())) or "nothing failed"
        return (
            f"{self.runs} schedules, {self.seconds / 3600:.1f} simulated hours, {self.acked} acknowledged writes, "
            f"{self.blind} with a takeover that the other server could not know of: {what}"
        )


def results(variant: Variant, seeds: Iterable[int], processes: int = 0) -> Iterator[Result]:
    """The results as they come; ``processes``: 0 for one per core, 1 for this one."""
    if processes == 1:
        yield from map(variant.play, seeds)
        return
    with Pool(processes or cpu_count()) as pool:
        yield from pool.imap_unordered(partial(_play, variant), seeds, chunksize=4)


def _play(variant: Variant, seed: int) -> Result:
    return variant.play(seed)
