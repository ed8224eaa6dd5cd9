"""How a seed chooses its faults: four ways, each strong where the others are weak.

Promise: the same seed gives the same schedule. ``mixed`` draws from every kind of fault; ``swarm`` from a few kinds only, so
that rare ones meet each other; ``aimed`` strikes at effects (a phase change, a record on its way to the disk) rather than at
times; ``holes`` bends a schedule that once opened a hole. Source: facts/safety-model.md; Groce and others, "Swarm testing",
2012.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .faults import KINDS, Fault, Schedule
from .network import NODES, other
from .scenarios import HOLES

#: what aimed faults wait for, after the server's name
MOMENTS = (
    "Persist", "Persist in_sync=True", "Persist stood_down=True", "Persist tentative=True", "Persist solo=True",
    "Gate(open=True)", "DropVip", "TakeVip", "names=enforced", "postgres=detached", "postgres=stopped", "postgres=primary",
    "RoleChanged after=detaching", "RoleChanged after=opening", "RoleChanged after=promoting", "RoleChanged after=active",
    "RoleChanged after=preparing", "RoleChanged after=standing-down", "RoleChanged after=passive", "RoleChanged in sync again",
    "RoleChanged solo:", "Garp", "Fence", "AskGrant",
)  # fmt: skip
DELAYS = (0.0, 0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 1.5)
#: lengths at which something happens: leases, silences, restarts (seconds)
TIMES = (0.1, 0.3, 0.5, 0.56, 0.66, 0.8, 1.0, 1.1, 1.3, 1.6, 2.0, 2.6, 3.4, 3.6, 4.2, 6.0)
#: people are rare, and a forced activation gives writes up: only where it is asked for
RANDOM_KINDS = tuple(kind for kind in KINDS if kind not in ("activate", "mode", "stranger", "unfenced", "witness"))


#: kind, weight in a mixed schedule, weight in one heavy with crashes
WEIGHTS: tuple[tuple[str, float, float], ...] = (
    ("power", 4, 9), ("pause", 4, 4), ("heartbeat-kill", 4, 5), ("ha_manager-kill", 3, 2), ("heartbeat-hang", 3, 3),
    ("ha_manager-hang", 2, 1), ("postgres-kill", 3, 2), ("postgres-hang", 2, 1), ("postgres-broken", 2, 1), ("crash", 3, 6),
    ("cut", 10, 8), ("ping", 4, 3), ("port", 3, 3), ("loss", 2, 1), ("slow", 2, 1), ("checkpointer", 2, 2), ("full", 1, 0.5),
    ("failover", 4, 2), ("suspend", 1, 0), ("leave", 2, 1),
)  # fmt: skip


def _argument(random: Random, kind: str) -> str:
    match kind:
        case "heartbeat-hang" | "ha_manager-hang":
            return random.choice(("", "", "unwatched"))
        case "crash":
            return f"{random.randint(1, 6)}:{random.choice(('kill', 'power'))}"
        case "cut":
            what = random.choice(("lan", "ic", "*", "*", "hb", "repl", "session"))
            return f"{what}:{random.choice(('out', 'in', 'both'))}"
        case "ping":
            return random.choice(("", "both"))
        case "port":
            return random.choice(("", "carrier"))
        case "loss":
            return random.choice(("0.2", "0.5", "0.7"))
        case "delay" | "double":
            return random.choice(("0.05", "0.3", "1.0"))
        case "slow":
            return random.choice(("0.1", "0.8", "2.5"))
        case "checkpointer":
            return random.choice(("0.3", "2.0", "4.0"))
        case "leave":
            return random.choice(("handover", "off"))
    return ""


def _length(random: Random, kind: str) -> float:
    if kind in ("postgres-kill", "failover"):
        return 0.0
    if kind in ("heartbeat-kill", "ha_manager-kill") and random.random() < 0.7:
        return 0.0
    return float(round(0.1 * 60.0 ** random.random() + (0.3 if kind in ("power", "crash") else 0.0), 2))


def _around(random: Random, kind: str) -> float:
    if random.random() < 0.4:
        return _length(random, kind)
    exact = random.choice(TIMES) * random.uniform(0.95, 1.05)
    return 0.0 if kind in ("postgres-kill", "failover") else round(exact + (0.3 if kind == "crash" else 0.0), 2)


def _fault(random: Random, at: float, kind: str, node: str, when: str = "") -> Fault:
    return Fault(round(at, 3), kind, node, _around(random, kind), _argument(random, kind), when)


def mixed(random: Random, most: int, symmetric: bool = False) -> Schedule:
    """Up to ``most`` faults, near each other in time; ``symmetric`` puts a cut of every path among them."""
    column = random.choice((1, 2))
    kinds = [row[0] for row in WEIGHTS]
    weights = [float(row[column]) for row in WEIGHTS]
    at, faults = 1.0 + random.random(), []
    if symmetric:
        faults.append(Fault(round(at, 2), "cut", "A", round(random.uniform(0.5, 8.0), 2), "*:both"))
    for _ in range(random.randint(1, most)):
        kind = random.choices(kinds, weights)[0]
        faults.append(Fault(round(at, 2), kind, random.choice(NODES), _length(random, kind), _argument(random, kind)))
        at += random.expovariate(1.0) if random.random() < 0.8 else random.uniform(2.0, 5.0)
    return tuple(faults)


def swarm(random: Random, most: int) -> Schedule:
    kinds = random.sample(RANDOM_KINDS, random.randint(1, 4))
    bias = random.choice((0.0, 0.5, 0.5, 1.0))
    pace = random.choice((0.05, 0.3, 1.0, 2.0))
    at, faults = 1.0 + random.random(), []
    for _ in range(random.randint(2, most + 2)):
        faults.append(_fault(random, at, random.choice(kinds), NODES[random.random() < bias]))
        at += random.expovariate(1 / pace)
    return tuple(faults)


def aimed(random: Random, most: int) -> Schedule:
    """A few faults that set something going, and others that strike while it goes."""
    faults = list(mixed(random, 2))
    if random.random() < 0.4:
        faults.append(Fault(round(faults[-1].at + random.uniform(0.5, 3.0), 2), "failover", random.choice(NODES)))
    for _ in range(random.randint(1, max(1, most - 2))):
        when = f"{random.choice(NODES)} {random.choice(MOMENTS)}"
        faults.append(_fault(random, random.choice(DELAYS), random.choice(RANDOM_KINDS), random.choice(NODES), when))
    return tuple(faults)


def holes(random: Random, most: int) -> Schedule:
    """One that opened a hole once: times and lengths bent, mirrored, something added or left out."""
    faults = list(random.choice([scenario for scenario in HOLES if scenario.schedule and not scenario.setting.hasty]).schedule)
    if random.random() < 0.3:
        faults = [_mirrored(fault) for fault in faults]
    stretch = random.choice((0.0, 0.02, 0.1, 0.5))
    faults = [_bent(random, fault, stretch) for fault in faults]
    if len(faults) > 1 and random.random() < 0.3:
        faults.pop(random.randrange(len(faults)))
    for _ in range(random.choice((0, 1, 1, 2))):
        if random.random() < 0.5:
            near = random.choice(faults)
            at = max(1.0, near.at + random.choice((0.0, near.length)) + random.gauss(0.0, 0.3)) if not near.when else 2.0
            faults.append(_fault(random, at, random.choice(RANDOM_KINDS), random.choice(NODES)))
        else:
            when = f"{random.choice(NODES)} {random.choice(MOMENTS)}"
            faults.append(_fault(random, random.choice(DELAYS), random.choice(RANDOM_KINDS), random.choice(NODES), when))
    return tuple(faults)


def _mirrored(fault: Fault) -> Fault:
    name, _, words = fault.when.partition(" ")
    return fault._replace(node=other(fault.node), when=f"{other(name)} {words}" if fault.when else "")


def _bent(random: Random, fault: Fault, stretch: float) -> Fault:
    def bend(time: float) -> float:
        return round(max(0.0, time * (1 + random.uniform(-stretch, stretch)) + random.gauss(0.0, stretch / 4)), 3)

    at = bend(fault.at) if fault.when else max(1.0, bend(fault.at))
    return fault._replace(at=at, length=max(0.1, bend(fault.length)) if fault.length else 0.0)


WAYS: dict[str, Callable[[Random, int], Schedule]] = {"mixed": mixed, "swarm": swarm, "aimed": aimed, "holes": holes}


def schedule_of(seed: int, way: str, most: int, symmetric: bool = False) -> Schedule:
    """The schedule that belongs to a seed; ``way`` "all": the seed decides which."""
    chosen = tuple(WAYS)[seed // 20 % len(WAYS)] if way == "all" else way
    if chosen == "mixed" or symmetric:
        return mixed(Random(f"schedule {seed}"), most, symmetric)
    return WAYS[chosen](Random(f"{chosen} {seed}"), most)
