"""What a node carries: its connections are counted in one go, and not so often that the counting itself is a load."""

from __future__ import annotations

import itertools
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from director import balance
from director.load import PERIOD, pause
from runtime.reset import clients_of


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """The first has one connection, the second two, the third three; the third listens on ::, and has one of ::1, too."""
    with ExitStack() as open_:
        found = []
        for number, (family, address) in enumerate([(socket.AF_INET, "0.0.0.0")] * 2 + [(socket.AF_INET6, "::")], start=1):
            both = family == socket.AF_INET6
            server = open_.enter_context(socket.create_server((address, 0), family=family, dualstack_ipv6=both))
            found.append(server.getsockname()[1])
            for host in ["127.0.0.1"] * number + (["::1"] if both else []):
                open_.enter_context(socket.create_connection((host, found[-1])))
                open_.enter_context(server.accept()[0])
        yield found


def test_the_connections_of_several_ports_are_counted_together_and_no_others(ports: list[int]) -> None:
    counts = {ports[0]: Counter({"127.0.0.1": 1}), ports[1]: Counter({"127.0.0.1": 2})}
    counts[ports[2]] = Counter({"127.0.0.1": 3, "::1": 1})
    for some in (chosen for length in range(4) for chosen in itertools.combinations(ports, length)):
        assert clients_of(some) == sum((counts[port] for port in some), Counter())
    nobody = [port for port in range(1, 20) if port not in ports]
    assert clients_of([*nobody, ports[1]]) == counts[ports[1]]


@pytest.mark.parametrize(("cost", "seconds"), [(0.0, PERIOD), (0.002, PERIOD), (0.006, 6.0), (0.5, balance.PERIOD)])
def test_counting_costs_a_thousandth_of_a_processor_or_happens_once_for_each_judgement(cost: float, seconds: float) -> None:
    assert pause(cost) == pytest.approx(seconds)
