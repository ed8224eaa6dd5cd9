"""Pinned keys in a folder: found by node, never replaced silently, nothing trusted beside a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.keys import Keys, PublicKey
from runtime.pins import Pins


def key_of(tmp_path: Path, node: str, folder: str = "") -> PublicKey:
    return Keys(tmp_path / (folder or node)).make(node)


def test_what_is_pinned_is_found_again_and_can_be_forgotten(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins")
    assert pins.all() == () and pins.get("vs-1") is None
    one, two = key_of(tmp_path, "vs-1"), key_of(tmp_path, "vs-2")
    pins.pin(two)
    pins.pin(one)
    pins.pin(one)
    assert pins.all() == (one, two) and pins.get("vs-2") == two
    assert pins.forget("vs-2") and not pins.forget("vs-2")
    assert pins.all() == (one,)


def test_another_key_of_the_same_node_is_refused_with_the_remedy(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins")
    old, new = key_of(tmp_path, "vs-1"), key_of(tmp_path, "vs-1", "again")
    pins.pin(old)
    with pytest.raises(ConfigError, match=f"{old.fingerprint}, not {new.fingerprint}.*do this"):
        pins.pin(new, remedy="do this")
    assert pins.get("vs-1") == old
    pins.pin(new, replace=True)
    assert pins.get("vs-1") == new


@pytest.mark.parametrize("text", ["", "ha-key-1 vs-1 ssh-ed25519 AAAA x25519 BBBB\n", "\xff"])
def test_a_damaged_file_means_that_nobody_is_trusted(tmp_path: Path, text: str) -> None:
    pins = Pins(tmp_path / "pins")
    pins.pin(key_of(tmp_path, "vs-1"))
    pins.file("vs-2").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"vs-2\.pub"):
        pins.all()


def test_a_key_under_another_nodes_name_is_refused(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins")
    pins.pin(key_of(tmp_path, "vs-1"))
    pins.file("vs-1").rename(pins.file("vs-2"))
    with pytest.raises(ConfigError, match="holds the key of vs-1"):
        pins.all()
