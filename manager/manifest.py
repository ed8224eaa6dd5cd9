"""What a configuration consists of, by content: manifests, their digests, and what one device lacks of another's.

Promise: no input or output. Equal digests are equal trees: names, kinds, modes, link targets and contents. What has the same
content under another name is not sent again. A manifest that came from elsewhere is believed nothing: names that would lead
out of the tree, twice the same, or below something that is no directory, are refused. Source: design §7; issue "Manager and
notifier" ("Only differences travel, by content").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from runtime.errors import HaError

LONGEST_NAME = 4096
_json = json.JSONEncoder(separators=(",", ":")).encode


class Unusable(HaError):
    """Not a manifest, or one that no honest notifier makes."""


class Kind(StrEnum):
    FILE = "f"
    FOLDER = "d"
    LINK = "l"


@dataclass(frozen=True)
class Entry:
    """``content``: of a file the SHA-256 in hexadecimal digits, of a link its target, of a folder ""; ``size`` in bytes."""

    kind: Kind
    mode: int
    content: str = ""
    size: int = 0


@dataclass(frozen=True)
class Manifest:
    """Of one tree; names are relative to it, with "/" between their parts."""

    entries: Mapping[str, Entry]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.encoded()).hexdigest()

    def encoded(self) -> bytes:
        """The same for equal trees, one line an entry, sorted by name."""
        return "".join([_line(name, entry) for name, entry in sorted(self.entries.items())]).encode("ascii")

    @cached_property
    def contents(self) -> dict[str, int]:
        """Of its files: SHA-256 → size."""
        return {entry.content: entry.size for entry in self.entries.values() if entry.kind is Kind.FILE}


def _line(name: str, entry: Entry) -> str:
    """JSON. Most names are what they are in it; saying so takes a fifth of the time, and there are thousands."""
    if _is_plain(name) and _is_plain(entry.content):
        return f'["{name}","{entry.kind.value}",{entry.mode},"{entry.content}",{entry.size}]\n'
    return _json([name, entry.kind, entry.mode, entry.content, entry.size]) + "\n"


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


@dataclass(frozen=True)
class Lack:
    """What must travel so that a device with one manifest can build another."""

    contents: tuple[str, ...]
    size: int


def lacking(wanted: Manifest, there: Iterable[Manifest]) -> Lack:
    """``there``: what the device has, in force and in its staging area. Largest first, so that none waits at the end."""
    has = {content for each in there for content in each.contents}
    missing = {content: size for content, size in wanted.contents.items() if content not in has}
    return Lack(tuple(sorted(missing, key=lambda content: (-missing[content], content))), sum(missing.values()))


def decoded(data: bytes) -> Manifest:
    """What ``encoded`` made. Raises Unusable."""
    entries: dict[str, Entry] = {}
    for line in data.splitlines():
        name, entry = _entry(line)
        if name in entries:
            raise Unusable(f"{name!r} stands twice")
        entries[name] = entry
    return _in_folders(entries)


def patched(base: Manifest | None, gone: Iterable[object], changed: Iterable[object]) -> Manifest:
    """``base`` without the names ``gone``, and with ``changed``, entries as a manifest's lines have them. Raises Unusable."""
    entries = dict(base.entries) if base is not None else {}
    for name in gone:
        if not isinstance(name, str) or entries.pop(name, None) is None:
            raise Unusable("what is to go is not there")
    entries.update(_checked(each) for each in changed)
    return _in_folders(entries)


def _in_folders(entries: dict[str, Entry]) -> Manifest:
    folders = {name for name, entry in entries.items() if entry.kind is Kind.FOLDER}
    for name in entries:
        above, _, _ = name.rpartition("/")
        if above and above not in folders:
            raise Unusable(f"{name!r} lies in no folder")
    return Manifest(entries)


def _entry(line: bytes) -> tuple[str, Entry]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as wrong:
        raise Unusable(f"a line is no entry: {wrong}") from wrong
    return _checked(told)


def _checked(told: object) -> tuple[str, Entry]:
    try:
        match told:
            case [str(name), str(kind), int(mode), str(content), int(size)]:
                entry = Entry(Kind(kind), mode, content, size)
            case _:
                raise Unusable("a line is no entry")
    except ValueError as wrong:
        raise Unusable(f"a line is no entry: {wrong}") from wrong
    if not _inside(name):
        raise Unusable(f"{name[:80]!r} is no name below a tree")
    if not _possible(entry):
        raise Unusable(f"what is said of {name!r} can't be")
    return name, entry


def _inside(name: str) -> bool:
    parts = name.split("/")
    return len(name) <= LONGEST_NAME and _spelled(name) and not any(part in ("", ".", "..") for part in parts)


def _spelled(name: str) -> bool:
    """The kernel can be told it: no zero byte, nothing that stands for no byte."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in name


def _possible(entry: Entry) -> bool:
    """Neither set-id bits, nor digests that are none, nor booleans for numbers."""
    if isinstance(entry.mode, bool) or isinstance(entry.size, bool) or not 0 <= entry.mode <= 0o777 or entry.size < 0:
        return False
    match entry.kind:
        case Kind.FILE:
            return len(entry.content) == 64 and not entry.content.strip("0123456789abcdef")
        case Kind.FOLDER:
            return (entry.content, entry.size) == ("", 0)
        case Kind.LINK:
            return 0 < len(entry.content) <= LONGEST_NAME and _spelled(entry.content) and entry.size == 0


def for_scanners(manifest: Manifest, left_out: str = "ps_debpackages") -> Manifest:
    """Without what only policy servers get (Trustwave §2.3): a folder of that name, wherever it lies, and all in it."""
    return Manifest({name: each for name, each in manifest.entries.items() if left_out not in name.split("/")})
