"""The vocabulary of the Manager: processes, what happens to them, what is to be done.

Promise: plain immutable values; the rules are in ``roles``. Source: design §7; the reference, 2 ("How it Works").
Times are seconds of CLOCK_BOOTTIME, handed in as ``now``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """Which module file says what is enabled."""

    ACTIVE = "active"
    PASSIVE = "passive"


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    WAITING = "waiting"  # died or did not start; will be started again at a known time
    KILLING = "killing"  # hung: SIGKILL is on its way
    GIVEN_UP = "given up"  # did not stay in spite of many tries; looked for now and then


@dataclass(frozen=True)
class Process:
    """One process of a role, as manager.conf.xml describes it. Limits in seconds."""

    name: str
    role: str
    init_script: str
    pid_file: str
    #: control socket that answers ``ping``; "" if it has none
    control: str = ""
    hang_limit: float = 3.0
    start_limit: float = 30.0
    stop_limit: float = 30.0
    #: lower numbers first, equal numbers together; by themselves, not the reverse of each other
    start_order: int = 0
    stop_order: int = 0
    #: command that starts it as the init script would, but faster; () means the init script
    restart: tuple[str, ...] = ()
    #: least time from a death to the next start: for a process that others stop too, and tell the Manager of it only then
    restart_after: float = 0.0
    #: a death or failure this long ago is forgotten
    quiet: float = 10.0
    #: so many tries in a row may fail; 0: it is never given up
    give_up_after: int = 0

    def same_process(self, other: Process) -> bool:
        """A running one need not be restarted to become ``other``."""
        return (self.init_script, self.pid_file) == (other.init_script, other.pid_file)


# --- events ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    """Time has passed; sent when ``deadline()`` is reached."""


@dataclass(frozen=True)
class Reload:
    """This is the configuration from now on. ``running`` (name → pid) are processes that were found already running."""

    mode: Mode
    known: tuple[Process, ...]
    #: names of the processes whose role is enabled in this mode
    enabled: frozenset[str]
    running: Mapping[str, int] = field(default_factory=dict)
    #: None: nobody waits for the outcome
    token: int | None = None
    #: start again what an operator had stopped
    release: bool = True


@dataclass(frozen=True)
class OperatorStart:
    names: tuple[str, ...]
    token: int | None = None


@dataclass(frozen=True)
class OperatorStop:
    names: tuple[str, ...]
    token: int | None = None


@dataclass(frozen=True)
class Expected:
    """Its next death, if it comes soon, is on purpose."""

    name: str
    because: str


@dataclass(frozen=True)
class Shutdown:
    """Stop everything, in order, then exit."""

    because: str


@dataclass(frozen=True)
class Started:
    name: str
    pid: int


@dataclass(frozen=True)
class Found:
    """It was given up, and runs: somebody else has started it."""

    name: str
    pid: int


@dataclass(frozen=True)
class StartFailed:
    name: str
    because: str


@dataclass(frozen=True)
class Stopped:
    """It is gone. ``problem``: what went wrong on the way ("" if nothing)."""

    name: str
    problem: str = ""


@dataclass(frozen=True)
class Died:
    """It is gone, and this Manager had not asked for it."""

    name: str
    because: str


@dataclass(frozen=True)
class Hung:
    name: str
    because: str


Event = (
    Tick | Reload | OperatorStart | OperatorStop | Expected | Shutdown | Started | Found | StartFailed | Stopped | Died | Hung
)


# --- effects --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """Answer with Started or StartFailed. ``again``: it ran before, so its ``restart`` command will do."""

    process: Process
    again: bool


@dataclass(frozen=True)
class Look:
    """Answer with Found if it runs."""

    process: Process


@dataclass(frozen=True)
class Stop:
    """Answer with Stopped, always: in the end by SIGKILL."""

    process: Process


@dataclass(frozen=True)
class Kill:
    """SIGKILL; Died follows."""

    process: Process
    because: str


@dataclass(frozen=True)
class Changed:
    """For log and history."""

    name: str
    before: State
    after: State
    because: str
    #: False for one more round of a failure that is known already
    news: bool = True


@dataclass(frozen=True)
class Alarm:
    """Something an operator should know; raised and cleared once per change, by name."""

    name: str
    raised: bool
    text: str


@dataclass(frozen=True)
class Held:
    """These are stopped because an operator said so; to be remembered until the next boot."""

    names: frozenset[str]


@dataclass(frozen=True)
class Done:
    """Whoever asked with ``token`` can be answered: what failed, in sentences."""

    token: int
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Exit:
    """Everything is stopped."""


Effect = Start | Look | Stop | Kill | Changed | Alarm | Held | Done | Exit
