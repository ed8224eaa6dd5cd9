"""Settings of the kernel: set, remembered on the disk, put back, whoever it is that stops."""

from __future__ import annotations

from pathlib import Path

from director.sysctls import Sysctls

LOOSE, REDIRECTS = "net/netfilter/nf_conntrack_tcp_loose", "net/ipv4/conf/eth0/send_redirects"


def proc(folder: Path) -> Path:
    for name, value in {LOOSE: "1", REDIRECTS: "1"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value + "\n")
    return folder


def shown(root: Path) -> list[str]:
    return [(root / name).read_text().strip() for name in (LOOSE, REDIRECTS)]


def test_what_a_killed_one_changed_is_put_back_by_the_next(tmp_path: Path) -> None:
    root, kept = proc(tmp_path / "sys"), tmp_path / "settings"
    killed = Sysctls(kept, root)
    assert killed.ensure({LOOSE: "0"}) == [] and killed.ensure({LOOSE: "0", REDIRECTS: "0"}) == []
    again = Sysctls(kept, root)
    assert again.ensure({LOOSE: "0", REDIRECTS: "0"}) == [] and shown(root) == ["0", "0"]
    assert again.found == {LOOSE: "1", REDIRECTS: "1"}
    again.restore()
    assert shown(root) == ["1", "1"] and list(tmp_path.iterdir()) == [root]


def test_what_was_so_already_is_left_alone(tmp_path: Path) -> None:
    root, kept = proc(tmp_path / "sys"), tmp_path / "settings"
    one = Sysctls(kept, root)
    assert one.ensure({LOOSE: "1"}) == [] and not kept.exists()
    (root / LOOSE).write_text("0")
    one.restore()
    assert shown(root) == ["0", "1"]


def test_it_is_said_and_set_all_the_same_if_nothing_can_be_kept(tmp_path: Path) -> None:
    root = proc(tmp_path / "sys")
    one = Sysctls(tmp_path / "none" / "settings", root)
    for _ in range(2):  # it stays wrong, also when the settings are right
        assert "can't be written, so a killed director's settings stay" in one.ensure({LOOSE: "0"})[0]
        assert shown(root) == ["0", "1"]
    (tmp_path / "none").mkdir()
    assert one.ensure({LOOSE: "0"}) == [] and Sysctls(tmp_path / "none" / "settings", root).found == {LOOSE: "1"}
    (tmp_path / "none" / "settings").unlink()
    (tmp_path / "none").rmdir()
    assert "no_such can't be set" in one.ensure({"no_such": "0"})[0]
    one.restore()
    assert shown(root) == ["1", "1"]


def test_a_file_that_is_none_says_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "settings"
    for said in ("", "[1]", "{"):
        kept.write_text(said)
        assert Sysctls(kept, tmp_path).found == {}
