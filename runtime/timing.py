"""The times of a pair and the inequalities between them.

Promise: a ``Timing`` that ``check`` accepts satisfies design §4's list; each rule broken is named in words. All in seconds.
Source: design §4 ("Timing is validated at start"), profiles measured there; Linux-HA's in facts/linux-ha-heartbeat.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Timing:
    keepalive: float = 0.2
    warntime: float = 0.4
    ping_period: float = 0.04
    ping_dead: float = 0.6
    isolation: float = 0.65
    deadtime: float = 1.0
    lease: float = 0.55
    stale: float = 2.5
    solo: float = 3.5
    #: a booted server waits so long for its peer before it acts on what is on its disk alone
    initdead: float = 3.0
    #: the role file says for how long it is good
    role_expiry: float = 0.5
    #: ha_manager may be gone for so long (a restart) before its Postgres is taken from it
    allowance: float = 0.45
    #: commits may wait so long for the standby before the active asks for its release
    stall: float = 0.5
    clock_drift: float = 0.05
    delivery: float = 0.05

    @property
    def report_period(self) -> float:
        """ha_manager reports at least so often (seconds): two reports may be late before its allowance is over."""
        return min(0.1, self.allowance / 3)

    @property
    def calm_ping_period(self) -> float:
        """Pings are sent so often (seconds) while the newest one was answered and nothing waits for another answer: with the
        heartbeats. After one without an answer there is time for several at the ping period before ping-dead.
        """
        return max(self.ping_period, min(self.keepalive, self.ping_dead / 3))


PROFILES = {
    "recommended": Timing(),
    "aggressive": Timing(
        keepalive=0.05, warntime=0.1, ping_period=0.025, ping_dead=0.16, isolation=0.2, deadtime=0.3, lease=0.15, stale=0.65,
        solo=0.8, initdead=2.0, role_expiry=0.15, allowance=0.08, stall=0.25, clock_drift=0.02, delivery=0.03,
    ),
}  # fmt: skip


def scaled(deadtime: float) -> Timing:
    """The recommended profile stretched to another deadtime (for an ha.cf that says only keepalive and deadtime)."""
    base = PROFILES["recommended"]
    f = deadtime / base.deadtime
    return replace(
        base, keepalive=base.keepalive * f, warntime=base.warntime * f, ping_period=base.ping_period * f,
        ping_dead=base.ping_dead * f, isolation=base.isolation * f, deadtime=deadtime, lease=base.lease * f,
        stale=base.stale * f, solo=base.solo * f, initdead=base.initdead * f, role_expiry=base.role_expiry * f,
        allowance=base.allowance * f, stall=base.stall * f,
    )  # fmt: skip


def check(t: Timing) -> list[str]:
    """Every rule that ``t`` breaks, in words with the numbers; empty when it may be used."""
    grace = t.role_expiry + t.allowance
    rules = [
        (t.keepalive > 0, "keepalive > 0", t.keepalive, 0.0),
        (t.deadtime > 2 * t.keepalive, "deadtime > 2 × keepalive", t.deadtime, 2 * t.keepalive),
        (t.keepalive < t.warntime, "keepalive < warntime", t.keepalive, t.warntime),
        (t.warntime < t.ping_dead + t.ping_period, "warntime < ping-dead + one ping period", t.warntime,
         t.ping_dead + t.ping_period),
        (t.ping_dead > 2 * t.ping_period, "ping-dead > 2 × ping period", t.ping_dead, 2 * t.ping_period),
        (t.ping_dead + t.ping_period < t.isolation, "ping-dead + one ping period < isolation", t.ping_dead + t.ping_period,
         t.isolation),
        (t.isolation < t.deadtime, "isolation < deadtime", t.isolation, t.deadtime),
        (t.lease < t.isolation, "VIP lease < isolation", t.lease, t.isolation),
        (t.lease > t.keepalive, "VIP lease > keepalive", t.lease, t.keepalive),
        (grace < t.deadtime, "role file expiry + restart allowance < deadtime", grace, t.deadtime),
        (t.stale > max(t.lease, grace) + t.deadtime + 2 * t.keepalive,
         "stale > max(VIP lease, role file expiry + restart allowance) + deadtime + 2 × keepalive", t.stale,
         max(t.lease, grace) + t.deadtime + 2 * t.keepalive),
        (t.solo > t.stale + t.clock_drift + t.delivery, "solo > stale + clock drift + one delivery", t.solo,
         t.stale + t.clock_drift + t.delivery),
        (t.initdead >= t.deadtime, "initdead ≥ deadtime", t.initdead, t.deadtime),
    ]  # fmt: skip
    return [f"{rule} does not hold ({a * 1000:g} ms, {b * 1000:g} ms)" for holds, rule, a, b in rules if not holds]


def seconds(text: str) -> float:
    """Linux-HA's times: ``2``, ``1.7``, ``1.7s``, ``500ms``; in seconds. Raises ValueError."""
    text = text.strip()
    if text.endswith("ms"):
        return float(text[:-2]) / 1000
    return float(text.removesuffix("s"))
