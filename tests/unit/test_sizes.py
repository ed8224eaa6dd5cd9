"""Numbers of bytes."""

from __future__ import annotations

import pytest

from runtime.sizes import size, size_of


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("512", 512), (" 16MB ", 2**24), ("1 gb", 2**30), ("64KiB", 2**16), ("7B", 7)]
)
def test_as_people_write_them(text: str, count: int) -> None:
    assert size_of(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1.5MB", "MB", "1 parsec", "99999TB", "1" * 16, "1i"])
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(ValueError, match=r"bytes|more than any log"):
        size_of(text)


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**30, "1 GiB")])
def test_as_people_read_them(count: int, text: str) -> None:
    assert size(count) == text
