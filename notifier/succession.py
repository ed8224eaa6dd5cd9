"""With what a notifier begins to serve the devices.

Promise: its own state counts only if no other notifier has served this server's own device since; otherwise what that one
brought here last does: conf_ready, which is whole (base may be under the policy server's pen). Versions of an earlier epoch are
given anew in this one, the contents unchanged, so that devices which ignore everything older take them. Saved before it is
returned; made again if it was interrupted. Source: design §7; Trustwave §2.3 ("On failover …").
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manager import wire
from manager.holding import Release, Version
from notifier.devices import load
from notifier.paths import Paths
from notifier.store import Saved, Store
from runtime.durable import read_json
from runtime.errors import ConfigError, HaError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnDevice:
    """What this server's own Manager has accepted of any notifier."""

    highest: Version | None = None
    holds: Release | None = None


def own_device(file: Path) -> OwnDevice:
    """Nothing if it can't be read: then the notifier's own state is all there is."""
    try:
        kept: Any = read_json(file, {})
        highest, holds = kept.get("highest"), kept.get("holds")
        return OwnDevice(wire.version(highest) if highest else None, wire.release(holds) if holds else None)
    except (HaError, OSError, AttributeError) as wrong:
        log.warning("%s: what this server's device holds is not known: %s", file, wrong)
        return OwnDevice()


def highest_of(store: Store, paths: Paths) -> Version | None:
    """Of all versions that were given or heard on this server. Raises ConfigError."""
    known = [each for each in (store.saved().highest, own_device(paths.holding).highest) if each is not None]
    return max(known, default=None)


def succeed(store: Store, paths: Paths, epoch: tuple[int, str]) -> Saved:
    """Targets for this epoch. Raises HaError, OSError."""
    saved, own = store.saved(), own_device(paths.holding)
    if own.highest is not None and own.holds is not None and (saved.highest is None or own.highest > saved.highest):
        return _from_conf_ready(store, paths, epoch)
    if saved.highest is None or (saved.highest.epoch, saved.highest.node) == epoch:
        return saved
    version = Version(*epoch, saved.highest.number + 1)
    fresh = Saved(version, {name: Release(version, each.digest) for name, each in saved.targets.items()})
    store.save(fresh)
    return fresh


def _from_conf_ready(store: Store, paths: Paths, epoch: tuple[int, str]) -> Saved:
    committed = store.commit(paths.conf_ready)
    version = Version(*epoch, 1)
    devices = _devices(paths)
    saved = Saved(version, {each.device.name: Release(version, committed.of(each.device.kind)) for each in devices})
    store.save(saved)
    log.info("another notifier served the devices: release %s is what it brought to %s", version, paths.conf_ready)
    return saved


def _devices(paths: Paths) -> tuple[Any, ...]:
    try:
        return load(paths.devices)
    except ConfigError:
        return load(paths.committed_devices)
