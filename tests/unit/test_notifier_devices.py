"""devices.xml: what it says, and what is refused of it, with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from notifier.devices import Listed, load
from notifier.model import Device, Kind
from runtime.errors import ConfigError

GOOD = """<?xml version="1.0"?>
<devices>
  <device id="3" name="scan-1" ip="192.168.120.60" device_type="Scanning Server"/>
  <device id="2" name="vs-28" ip="192.168.120.28" port="4600" device_type="Management Server" description="of another version"/>
</devices>
"""


def test_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "devices.xml").write_text(GOOD)
    assert load(tmp_path / "devices.xml") == (
        Listed(Device("scan-1", Kind.SCANNING), "192.168.120.60", None, "3"),
        Listed(Device("vs-28", Kind.POLICY), "192.168.120.28", 4600, "2"),
    )


def test_nobody_is_listed(tmp_path: Path) -> None:
    (tmp_path / "devices.xml").write_text("<devices/>")
    assert load(tmp_path / "devices.xml") == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("</devices>", "", "not well-formed"),
        ("Scanning Server", "Printer", ":3: .*device_type.*Printer.*write \"Management Server\" or \"Scanning Server\""),
        ("192.168.120.60", "scan-1", ":3: .*ip"),
        ("192.168.120.60", "127.0.0.1", ":3: .*can't be a device's address"),
        ("192.168.120.60\"", "192.168.120.28\" port=\"4600\"", ":4: .*stands in line 3 already"),
        ("4600", "70000", ":4: .*port"),
        ("4600", "0", ":4: .*port"),
        ("scan-1", "VS-28", ":4: .*stands in line 3 already"),
        ("scan-1", "../x", ":3: .*name"),
        ('name="scan-1"', "", ":3: .*name is missing"),
    ],
)  # fmt: skip
def test_refuses_with_the_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    (tmp_path / "devices.xml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path / "devices.xml")


def test_two_policy_servers_at_most(tmp_path: Path) -> None:
    rows = "".join(f'\n<device name="vs-{n}" ip="10.0.0.{n}" device_type="Management Server"/>' for n in (1, 2, 3))
    (tmp_path / "devices.xml").write_text(f"<devices>{rows}</devices>")
    with pytest.raises(ConfigError, match=r":4: .*vs-3 is the third Management Server"):
        load(tmp_path / "devices.xml")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "devices.xml")
