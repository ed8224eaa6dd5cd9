"""Whether a notifier acts where heartbeat has said nothing: what an installation's own files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from notifier.paths import Paths
from notifier.standing import look

PAIR = '<module><init><ha enabled="{}"/></init></module>'
ROLES = '<module><init><roles><role name="HA" enabled="{}"/></roles></init></module>'


@pytest.mark.parametrize(
    ("pair", "roles", "acts"),
    [
        ("", "", True),
        (PAIR.format(1), ROLES.format(0), True),  # the samples of an installation; or after `ha stop`
        (PAIR.format(0), ROLES.format(1), True),
        (PAIR.format(1), ROLES.format(1), False),  # heartbeat will say
        (PAIR.format(1), "<damaged", False),
    ],
)
def test_without_a_word_of_heartbeat(tmp_path: Path, pair: str, roles: str, acts: bool) -> None:
    paths = Paths(tmp_path)
    for path, text in ((paths.topology, pair), (paths.commander, roles)):
        if text:
            path.parent.mkdir(parents=True)
            path.write_text(text)
    assert look(paths.role, paths.topology, "vs-1", None, paths.commander).acts is acts
