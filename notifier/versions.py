"""Which versions of this project may work together on the two policy servers.

Promise: the same answer for a commit, for pairing and for seeding; the sentence names both and the remedy. One step apart (the
same major version, neighbouring minor ones) is allowed while an operator has suspended high availability for an upgrade.
Source: Trustwave §1.1, §2.5, §2.6.1; issue "Manager and notifier" ("System updates").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.version import together


def why_not(packages: Mapping[str, str], own: str, suspended: Callable[[], bool]) -> str:
    """ "" if the policy servers (name → version; those that could be asked) may be given one configuration."""
    mine = packages.get(own)
    for name, theirs in packages.items():
        if mine is not None and theirs != mine and (why := together(mine, name, theirs, suspended=suspended())):
            return why
    return ""
