"""Module files by name, and the roles that the Manager runs: HA enabled or disabled in its two module files.

Promise: only the attribute ``enabled`` of one role changes, everything else in the file stays as it was, byte for byte; the
file is replaced durably. Source: Trustwave §2 ("The role HA should be enabled in the Commander/module.xml file").
"""

from __future__ import annotations

import re
from pathlib import Path

from runtime.durable import write_durably
from runtime.errors import ConfigError
from runtime.modulexml import parse

#: a folder that has this file is a module
MODULE = "module.xml"
#: modules that the Manager and ha_manager read: their folders, in whatever spelling
COMMANDER, HA = "commander", "ha"
_REMEDY = 'add <role name="HA" enabled="0"/> inside <roles>'


def role_enabled(path: Path, role: str) -> bool:
    """Whether ``role`` is enabled in this file. Raises ConfigError if it isn't there, or the file can't be used."""
    root = parse(path)
    for each in root.children("init/roles/role"):
        if each.text("name", "") == role:
            return each.flag("enabled")
    raise ConfigError(f"role {role} is not listed", file=path, remedy=_REMEDY)


def set_role(path: Path, role: str, enabled: bool) -> bool:
    """Enable or disable ``role``; True if that changed the file."""
    if role_enabled(path, role) is enabled:
        return False
    text = path.read_text()
    tag = re.compile(rf"""<role\b[^>]*\sname\s*=\s*["']{re.escape(role)}["'][^>]*>""")
    found = [m for m in tag.finditer(text) if not _in_comment(text, m.start())]
    if len(found) != 1:
        raise ConfigError(f"role {role} can't be found in the text", file=path, remedy=_REMEDY)
    old = found[0][0]
    new = re.sub(r"""(\senabled\s*=\s*)(?:"[^"]*"|'[^']*')""", rf'\g<1>"{int(enabled)}"', old)
    state = path.stat()
    write_durably(
        path,
        text[: found[0].start()] + new + text[found[0].end() :],
        mode=state.st_mode & 0o7777,
        owner=(state.st_uid, state.st_gid),
    )
    return True


def _in_comment(text: str, at: int) -> bool:
    return text.rfind("<!--", 0, at) > text.rfind("-->", 0, at)
