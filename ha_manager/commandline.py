"""What the commands of ``ha`` have in common: names in any case, one line for an error, exit statuses.

Promise: no traceback for what an operator can cause; each error ends in its exit status. Source: docs/reference.md, "ha".
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from runtime.errors import ConfigError, HaError, NotRunning

if TYPE_CHECKING:
    from ha_manager.config import Config, Reach

FAILED, NOT_RUNNING, NOT_CONFIGURED = 1, 3, 6


class AnyCase(click.Group):
    """``ha Failover`` is ``ha failover``; errors become one line and an exit status; help keeps the order of this file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _proper(self, cmd_name))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, [_proper(self, args[0]), *args[1:]])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as wrong:
            fail(f"{wrong}\nnothing was changed", NOT_CONFIGURED)
        except NotRunning as wrong:
            fail(f"{wrong}; `ha start` starts it", NOT_RUNNING)
        except HaError as wrong:
            fail(str(wrong), FAILED)
        except OSError as wrong:
            fail(f"{wrong}" + ("; run as root" if isinstance(wrong, PermissionError) else ""), FAILED)


def _proper(group: click.Group, name: str) -> str:
    return next((known for known in group.commands if known.casefold() == name.casefold()), name)


def fail(text: str, code: int) -> NoReturn:
    click.echo(f"ha: {text}", err=True)
    sys.exit(code)


def say(text: str) -> None:
    click.echo(text)


def need_root() -> None:
    if os.geteuid() != 0:
        fail("root is needed", FAILED)


def reached() -> Config | Reach:
    """The configuration; while it can't be used, what it takes to ask the daemons, which run with what they read before."""
    from ha_manager.config import load, reach
    from ha_manager.local import addresses

    try:
        return load(addresses())
    except ConfigError as wrong:
        return reach(wrong)
