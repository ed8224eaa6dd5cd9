"""Manifests: only equal trees have equal digests; only what is missing travels; what comes from elsewhere is checked."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.manifest import Entry, Kind, Manifest, Unusable, decoded, for_scanners, lacking


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file(text: str, mode: int = 0o644) -> Entry:
    return Entry(Kind.FILE, mode, sha(text), len(text))


FOLDER = Entry(Kind.FOLDER, 0o755)
TREE = Manifest({"global": FOLDER, "global/policy": file("one"), "global/copy": file("one"), "last": file("a longer text")})

#: any, and what stands for bytes that are no UTF-8
LETTERS = st.one_of(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)),
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
)
NAMES = st.text(LETTERS, min_size=1, max_size=8).filter(lambda name: name not in (".", ".."))
ENTRIES = st.one_of(
    st.builds(file, st.text("ab", max_size=3), st.sampled_from([0o600, 0o644, 0o755])),
    st.just(FOLDER),
    st.builds(lambda target: Entry(Kind.LINK, 0o777, target), st.text("ab/.", min_size=1, max_size=5)),
)
FLAT = st.builds(Manifest, st.dictionaries(NAMES, ENTRIES, max_size=6))


@given(FLAT)
def test_any_names_come_back(tree: Manifest) -> None:
    assert decoded(tree.encoded()) == tree
    assert decoded(tree.encoded()).digest == tree.digest


@given(FLAT)
def test_every_line_is_json_whatever_is_in_the_names(tree: Manifest) -> None:
    lines = [json.loads(line) for line in tree.encoded().splitlines()]
    assert lines == [[name, e.kind.value, e.mode, e.content, e.size] for name, e in sorted(tree.entries.items())]
    again = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    assert tree.encoded() == again.encode(), "there is one way to write it"


@given(FLAT, FLAT)
def test_only_equal_trees_have_equal_digests(one: Manifest, two: Manifest) -> None:
    assert (one.digest == two.digest) == (one == two)


@given(FLAT, st.lists(FLAT, max_size=3))
def test_what_is_there_and_what_travels_is_all_of_it(wanted: Manifest, there: list[Manifest]) -> None:
    lack = lacking(wanted, there)
    has = {content for each in there for content in each.contents}
    assert has.isdisjoint(lack.contents)
    assert has | set(lack.contents) >= set(wanted.contents)
    assert lack.size == sum(wanted.contents[content] for content in lack.contents)


def test_nothing_travels_of_an_unchanged_or_renamed_tree() -> None:
    assert lacking(TREE, [TREE]).contents == ()
    moved = Manifest({"elsewhere": file("one", 0o600)})
    assert lacking(moved, [TREE]).contents == ()


def test_the_same_content_travels_once_and_the_largest_first() -> None:
    assert lacking(TREE, []).contents == (sha("a longer text"), sha("one"))


def test_packages_for_policy_servers_stay_there() -> None:
    packages = {"global/ps_debpackages": FOLDER, "global/ps_debpackages/a.deb": file("x"), "ps_debpackages.txt": file("y")}
    left = for_scanners(Manifest({**TREE.entries, **packages}))
    assert set(left.entries) == {*TREE.entries, "ps_debpackages.txt"}


GOOD = ["name", "f", 0o644, sha("x"), 1]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "/etc/passwd"), (0, "../x"), (0, "a/../../x"), (0, "."), (0, ""), (0, "a//b"), (0, "a\0b"), (0, "x" * 5000), (0, 7),
        (1, "p"), (1, ""), (1, None), (2, 0o4755), (2, -1), (2, True), (2, "644"), (3, "x" * 64), (3, "ab"), (3, ""),
        (4, -1), (4, 1.5),
    ],
)  # fmt: skip
def test_no_honest_notifier_says_this(place: int, value: object) -> None:
    line = list(GOOD)
    line[place] = value  # type: ignore[call-overload]
    with pytest.raises(Unusable):
        decoded(json.dumps(line).encode())


@pytest.mark.parametrize(
    "lines",
    [
        [GOOD, GOOD],
        [["folder/name", "f", 0o644, sha("x"), 1]],
        [GOOD, ["name/below", "f", 0o644, sha("x"), 1]],
        [["link", "l", 0o777, "/etc", 0], ["link/passwd", "f", 0o644, sha("x"), 1]],
        [["folder", "d", 0o755, "content", 0]],
        [["link", "l", 0o777, "", 0]],
    ],
)
def test_nothing_stands_twice_or_below_what_is_no_folder(lines: list[list[object]]) -> None:
    with pytest.raises(Unusable):
        decoded("\n".join(map(json.dumps, lines)).encode())


@pytest.mark.parametrize("data", [b"rubbish", b"{}", b"[]", b"\xff", b'["a"]'])
def test_rubbish(data: bytes) -> None:
    with pytest.raises(Unusable):
        decoded(data)
