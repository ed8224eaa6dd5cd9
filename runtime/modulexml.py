"""Module files: XML that people and the policy server write, checked before anything is done with it.

Promise: no entity, DTD, network access or huge document gets in; what doesn't satisfy its schema (an XSD beside the package's
modules) is refused with file, line, element and attribute in plain words and what to write instead. Source: the reference's
module.xml; house style, 6.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from math import isfinite, nan
from typing import Any

from lxml import etree

from .durable import read_bytes
from .errors import ConfigError

_LARGEST = 1024 * 1024
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class Section:
    """One element of a checked file, with typed attributes whose errors know their place."""

    def __init__(self, file: str, element: Any) -> None:
        self._file = file
        self._element = element

    @property
    def name(self) -> str:
        return str(etree.QName(self._element).localname)

    @property
    def file(self) -> str:
        return self._file

    @property
    def line(self) -> int:
        return int(self._element.sourceline or 0)

    def child(self, path: str) -> Section | None:
        """The first element at ``path`` (``init/ha``), or None."""
        found = self._element.find(path)
        return None if found is None else Section(self._file, found)

    def children(self, path: str) -> Iterator[Section]:
        """Every element at ``path``, in the file's order."""
        for found in self._element.iterfind(path):
            yield Section(self._file, found)

    def need(self, path: str) -> Section:
        """The element at ``path``; ConfigError if it isn't there."""
        found = self.child(path)
        if found is None:
            raise self.error(f"<{self.name}> lacks <{path}>", remedy=f"add <{path} …/> inside <{self.name}>")
        return found

    def has(self, attribute: str) -> bool:
        return attribute in self._element.attrib

    def text(self, attribute: str, default: str | None = None) -> str:
        """The attribute, stripped. Without a default it must be there and not be empty."""
        value = str(self._element.get(attribute, "")).strip()
        if value:
            return value
        if default is None:
            raise self.error("is missing or empty", attribute, remedy=f'add {attribute}="…" to <{self.name}>')
        return default

    def whole(self, attribute: str, default: int | None = None, *, least: int | None = None, most: int | None = None) -> int:
        """The attribute as a whole number within bounds."""
        return int(self._number(attribute, default, int, "a whole number", least, most))

    def number(
        self, attribute: str, default: float | None = None, *, least: float | None = None, most: float | None = None
    ) -> float:
        """The attribute as a number within bounds."""
        return self._number(attribute, default, float, "a number", least, most)

    def _number(
        self, attribute: str, default: float | None, kind: type, what: str, least: float | None, most: float | None
    ) -> float:
        if default is not None and not self.text(attribute, ""):
            return default
        text = self.text(attribute)
        try:
            value: float = kind(text)
        except ValueError:
            value = nan
        if not isfinite(value):
            raise self.error(f"{text!r} is not {what}", attribute, remedy=f"write {what}")
        if (least is not None and value < least) or (most is not None and value > most):
            raise self.error(f"{text} is out of range", attribute, remedy=f"write {what} {_range(least, most)}")
        return value

    def flag(self, attribute: str, default: bool | None = None) -> bool:
        """The attribute as 1 or 0 (true, false, yes, no, on and off are understood as well)."""
        text = self.text(attribute, None if default is None else str(int(default))).lower()
        if text not in _TRUE | _FALSE:
            raise self.error(f"{text!r} is neither 1 nor 0", attribute, remedy="write 1 or 0")
        return text in _TRUE

    def address(self, attribute: str, default: str | None = None) -> str:
        """The attribute as an IP address; ``default`` (such as "") if it is missing or empty."""
        text = self.text(attribute, default)
        if text == default:
            return text
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            raise self.error(f"{text!r} is not an IP address", attribute, remedy="write one like 192.168.120.166") from None

    def error(self, message: str, attribute: str | None = None, *, remedy: str | None = None) -> ConfigError:
        """A ConfigError about this element, or about one of its attributes."""
        where = f"<{self.name}> attribute {attribute}: " if attribute else ""
        return ConfigError(where + message, file=self._file, line=self.line or None, remedy=remedy)


#: where there is no file
_PUT_IT_THERE = "put it there; the package brings a sample"


def load(
    path: str | os.PathLike[str],
    *,
    package: str,
    schema: str,
    remedies: Mapping[str, str] | None = None,
    absent: str = _PUT_IT_THERE,
) -> Section:
    """Read and check ``path``; the root element. Raises ConfigError.

    ``schema`` is the file name of an XSD in ``package``. ``remedies`` maps ``element@attribute`` or ``element`` to advice
    that is better than what the schema can say; ``absent``: what to do where there is no such file.
    """
    root = parse(path, absent)
    validator = _schema(package, schema)
    if not validator.validate(root._element):
        raise _violation(root.file, validator.error_log, remedies or {})
    return root


def parse(path: str | os.PathLike[str], absent: str = _PUT_IT_THERE) -> Section:
    """Read ``path`` as XML, securely, without a schema; the root element. Raises ConfigError."""
    file = os.fspath(path)
    try:
        content = read_bytes(path, _LARGEST, follow=True)
    except OSError as wrong:
        raise ConfigError(f"can't be read: {wrong.strerror}", file=file, remedy="check its owner and mode") from wrong
    if content is None:
        raise ConfigError("there is no such file", file=file, remedy=absent)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False, remove_comments=True,
        remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as wrong:
        line = wrong.lineno or None
        message = re.sub(r", line \d+, column \d+.*$", "", wrong.msg or "it is empty")
        raise ConfigError(f"is not well-formed XML: {message}", file=file, line=line, remedy="correct the line") from wrong
    if root.getroottree().docinfo.internalDTD is not None:
        raise ConfigError("has a DOCTYPE", file=file, line=1, remedy="remove it: entities and DTDs are not accepted")
    return Section(file, root)


@cache
def _schema(package: str, name: str) -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(os.path.join(import_module(package).__path__[0], name)))


def _range(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f"from {least:g} to {most:g}"
    return f"of at least {least:g}" if least is not None else f"of at most {most:g}"


# What libxml2 says, and how we say it: pattern, message, remedy. The place (element, attribute) is taken off before.
_PHRASES = [
    (
        r"\[facet 'enumeration'\] The value '(.*)' is not an element of the set \{(.*)\}\.",
        r"'\1' is not allowed",
        r"write one of \2",
    ),
    (
        r"\[facet '(?:min|max)(?:In|Ex)clusive'\] The value '(.*)' (?:is|must be) (less|greater) than .*\('(.*)'\)\.",
        r"\1 is \2 than \3",
        r"write a number within the limit \3",
    ),
    (
        r"\[facet '(?:min|max)Exclusive'\] The value '(.*)' must be (less|greater) than '(.*)'\.",
        r"\1 is not \2 than \3",
        r"write a number \2 than \3",
    ),
    (
        r"\[facet 'minLength'\] The value(?: '.*')? has a length of '(.*)'; this underruns.*",
        r"is empty or too short",
        r"write something there",
    ),
    (
        r"\[facet 'pattern'\] The value '(.*)' is not accepted by the pattern '(.*)'\.",
        r"'\1' does not look right",
        r"it must match \2",
    ),
    (
        r"'(.*)' is not a valid value of the (?:local )?(?:atomic|union|list) type 'xs:(.*)'\.",
        r"'\1' is not valid",
        r"it must be of type \2",
    ),
    (r"'(.*)' is not a valid value of .*", r"'\1' is not valid", r"see the schema of this file"),
    (r"The attribute '(.*)' is required but missing\.", r"attribute \1 is missing", r'add \1="…"'),
    (r"The attribute '(.*)' is not allowed\.", r"is not known here", r"remove it, or check its spelling"),
    (r"This element is not expected\. Expected is (?:one of )?\( (.*) \)\.", r"is not expected here", r"expected here: \1"),
    (r"This element is not expected\.", r"is not expected here", r"remove it, or check its spelling"),
    (r"Missing child element\(s\)\. Expected is (?:one of )?\( (.*) \)\.", r"lacks an element", r"add \1"),
    (
        r"No matching global declaration available for the validation root\.",
        r"is not what this file begins with",
        r"check that it is the right file",
    ),
    (
        r"Duplicate key-sequence \[(.*)\] in (?:unique|key) identity-constraint '.*'\.",
        r"\1 stands there twice",
        r"remove or rename one of them",
    ),
    (r"No match found for key-sequence \[(.*)\] of keyref '.*'\.", r"\1 is not defined", r"define it, or check its spelling"),
]

_PLACE = re.compile(r"^Element '(?:\{[^}]*\})?([^']+)'(?:, attribute '([^']+)')?: (.*)$", re.DOTALL)


def _violation(file: str, log: Any, remedies: Mapping[str, str]) -> ConfigError:
    entries = list(log)
    first = entries[0]
    place = _PLACE.match(first.message)
    if place is None:
        return ConfigError(first.message, file=file, line=first.line)
    element, attribute, said = place.group(1), place.group(2), place.group(3)
    message, remedy = _plainly(said)
    missing = re.match(r"attribute (\S+) is missing", message)
    key = f"{element}@{attribute or (missing.group(1) if missing else '')}"
    remedy = remedies.get(key) or remedies.get(element) or remedy
    where = f"<{element}>" + (f" attribute {attribute}:" if attribute else ("" if not missing else ":"))
    others = {entry.line for entry in entries} - {first.line}
    more = f"; also wrong: line {', '.join(map(str, sorted(others)))}" if others else ""
    return ConfigError(f"{where} {message}{more}", file=file, line=first.line, remedy=remedy)


def _plainly(said: str) -> tuple[str, str | None]:
    for pattern, message, remedy in _PHRASES:
        found = re.fullmatch(pattern, said.strip(), re.DOTALL)
        if found:
            return found.expand(message), found.expand(remedy)
    return said.rstrip("."), None
