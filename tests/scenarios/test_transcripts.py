"""The transcripts of H1 to H17 are what happens today.

Promise: any change of what a pair decides, says to people or writes in these schedules shows as a difference of text. When the
change is meant: ``python -m tests.simulation --transcripts``, and read the difference.
"""

from __future__ import annotations

import pytest

from tests.simulation.transcripts import FOLDER, transcripts

TOLD = transcripts()


@pytest.mark.parametrize("name", TOLD)
def test_what_happens_is_what_is_written(name: str) -> None:
    path = FOLDER / name
    assert path.exists(), "run: python -m tests.simulation --transcripts"
    assert TOLD[name].splitlines() == path.read_text().splitlines(), "if meant: python -m tests.simulation --transcripts"


def test_no_transcript_is_left_over() -> None:
    assert {path.name for path in FOLDER.glob("*.txt")} == set(TOLD)
