"""Sessions between others than the two servers of a pair: several trusted keys, an expected one, enrolment, refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import paramiko
import pytest

from runtime.errors import ConfigError, PeerError
from runtime.keys import Keys
from runtime.pins import Pins
from runtime.session import Caller, KeyChanged, Limits, PeerRefused, Refusal, Remedies, connect, fetch_key, serve
from runtime.session_client import Session
from runtime.session_server import SessionServer

QUICK = Limits(keepalive=0.1, silence=1.0, login=2.0, sessions=1)


def who(fields: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
    return {"caller": caller.node}


def full(fields: dict[str, Any], caller: Caller) -> Mapping[str, Any]:
    raise Refusal("no room for 5 MB", "full", free=3, id=99, ok=True, error="overwritten")


@pytest.fixture
def nodes(tmp_path: Path) -> dict[str, Keys]:
    made = {name: Keys(tmp_path / name) for name in ("device", "vs-1", "vs-2", "stranger")}
    for name, keys in made.items():
        keys.make(name)
    return made


@pytest.fixture
def pins(tmp_path: Path, nodes: dict[str, Keys]) -> Pins:
    pins = Pins(tmp_path / "pins")
    for name in ("vs-1", "vs-2"):
        pins.pin(nodes[name].show())
    return pins


@pytest.fixture
def device(nodes: dict[str, Keys], pins: Pins) -> Iterator[SessionServer]:
    handlers = {"who": who, "full": full}
    server = serve(nodes["device"], handlers, ["127.0.0.1"], port=0, limits=QUICK, trusted=pins.all, show_key=True)
    yield server
    server.close()


def to(device: SessionServer, nodes: dict[str, Keys], name: str, expected: str = "device") -> Session:
    remedies = Remedies(changed="enrol it again", unknown="pin it there")
    other = nodes[expected].show()
    return connect("127.0.0.1", nodes[name], lambda: (1, name), port=device.port, limits=QUICK, other=other, remedies=remedies)


def test_each_trusted_node_is_known_by_its_name_and_has_sessions_of_its_own(
    device: SessionServer, nodes: dict[str, Keys]
) -> None:
    one, two = to(device, nodes, "vs-1"), to(device, nodes, "vs-2")
    assert [s.request("who")["caller"] for s in (one, two)] == ["vs-1", "vs-2"]
    again = to(device, nodes, "vs-2")
    assert two.ended.wait(5)
    assert one.alive and again.request("who")["caller"] == "vs-2"


def test_nobody_else_gets_in_and_hears_what_to_do(device: SessionServer, nodes: dict[str, Keys]) -> None:
    with pytest.raises(KeyChanged, match="pin it there"):
        to(device, nodes, "stranger")
    with pytest.raises(KeyChanged, match=r"stranger .*enrol it again"):
        to(device, nodes, "vs-1", expected="stranger")


def test_a_key_that_is_forgotten_opens_nothing_any_more(device: SessionServer, nodes: dict[str, Keys], pins: Pins) -> None:
    pins.forget("vs-1")
    with pytest.raises(KeyChanged):
        to(device, nodes, "vs-1")
    pins.file("vs-3").write_text("damaged")
    with pytest.raises(KeyChanged):
        to(device, nodes, "vs-2")


def test_offering_a_trusted_key_that_one_does_not_have_gives_no_name(device: SessionServer, nodes: dict[str, Keys]) -> None:
    """The server is asked about a key before its owner has proven to have it: only the proven one may count."""

    class Claiming(paramiko.Ed25519Key):
        """Says that it is vs-1, and signs with vs-2's."""

        def asbytes(self) -> bytes:
            return nodes["vs-1"].show().ssh

    import io

    transport = paramiko.Transport(("127.0.0.1", device.port))
    transport.start_client(timeout=5)
    own = io.StringIO(nodes["vs-2"].private_ssh())
    with pytest.raises(paramiko.AuthenticationException):
        transport.auth_publickey("ha", Claiming.from_private_key(own))
    transport.auth_publickey("ha", paramiko.Ed25519Key.from_private_key(io.StringIO(nodes["vs-2"].private_ssh())))
    channel = transport.open_session(timeout=5)
    channel.invoke_subsystem("ha")
    channel.sendall(b'{"id":1,"do":"who","epoch":[1,"vs-1"],"within":5}\n')
    assert b'"caller":"vs-2"' in channel.recv(4096)
    transport.close()


def test_a_refusal_carries_what_a_program_needs(device: SessionServer, nodes: dict[str, Keys]) -> None:
    with pytest.raises(PeerRefused, match="no room for 5 MB") as refused:
        to(device, nodes, "vs-1").request("full")
    assert refused.value.code == "full" and refused.value.fields["free"] == 3
    with pytest.raises(PeerRefused) as refused:
        to(device, nodes, "vs-1").request("nothing like that")
    assert refused.value.code == ""


def test_a_device_says_its_key_to_strangers(device: SessionServer, nodes: dict[str, Keys], pins: Pins) -> None:
    assert fetch_key("127.0.0.1", port=device.port) == nodes["device"].show()
    assert device.sessions() == 0


def test_who_says_a_key_that_is_not_his_is_not_believed(nodes: dict[str, Keys], tmp_path: Path) -> None:
    """His public half is all that an impostor has of a device."""
    (tmp_path / "stranger/node.pub").write_text(nodes["device"].show().line + "\n")
    with pytest.raises(ConfigError, match="doesn't belong"):
        serve(nodes["stranger"], {}, ["127.0.0.1"], port=0, show_key=True)


def test_a_server_of_a_pair_says_no_key(nodes: dict[str, Keys]) -> None:
    nodes["vs-1"].accept(nodes["vs-2"].show().line)
    server = serve(nodes["vs-1"], {}, ["127.0.0.1"], port=0, limits=QUICK)
    try:
        with pytest.raises(PeerError, match="doesn't say its key"):
            fetch_key("127.0.0.1", port=server.port)
    finally:
        server.close()
