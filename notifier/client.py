"""Asking the notifier: its answers can be longer than a line of a control socket.

Promise: lists that travelled in rows before the answer are in it again. Source: docs/protocols.md ("notifier").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runtime.channel import Message
from runtime.control import Client

NAME = "the notifier"


def ask(
    control: Path,
    do: str,
    fields: Mapping[str, Any] | None = None,
    *,
    timeout: float,
    watch: Callable[[Message], None] | None = None,
) -> Message:
    """The answer's fields; ``watch`` gets what is pushed meanwhile. Raises ControlError."""
    rows: list[Any] = []

    def pushed(push: Message) -> None:
        if push["push"] == "row":
            rows.append(push["row"])
        elif watch is not None:
            watch(push)

    with Client(control, 5.0, name=NAME) as notifier:
        answer = notifier.request(do, fields, timeout=timeout, on_push=pushed)
    if isinstance(word := answer.pop("rows", None), str):
        answer[word] = rows
    return answer
