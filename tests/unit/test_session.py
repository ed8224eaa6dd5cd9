"""The session between the ha_managers, real SSH at both ends on 127.0.0.1: who gets in, what is refused, nothing hangs."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import paramiko
import pytest

from ha_manager import orders
from ha_manager.config import Config
from ha_manager.host import Host
from ha_manager.observation import Identity
from ha_manager.peer import EAGER, EAGER_REACH, Own, Peer, lacks_standby
from ha_manager.site import Server, Site
from runtime.errors import ConfigError, HaError, PeerError
from runtime.keys import Keys
from runtime.session import REACH, Caller, Epoch, KeyChanged, Limits, PeerRefused, PeerTimeout, SessionClosed, connect, serve
from runtime.session_client import Session
from runtime.session_server import SessionServer

#: Times that no busy machine exceeds; QUICK for the tests of what happens after them
PATIENT = Limits(keepalive=0.1, silence=20.0, login=20.0, strangers=6, strangers_per_address=3, sessions=2, requests=3)
QUICK = replace(PATIENT, silence=1.0, login=2.0)
quick = pytest.mark.parametrize("limits", [QUICK], ids=["quick"])


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a condition that another thread brings about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


def epoch() -> Epoch:
    return (7, "vs-28")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keys, Keys]:
    folder = tmp_path_factory.mktemp("keys")
    a, b = Keys(folder / "a"), Keys(folder / "b")
    a.make("vs-166")
    b.make("vs-28")
    a.accept(b.show().line)
    b.accept(a.show().line)
    return a, b


class Handlers:
    def __init__(self) -> None:
        self.release = threading.Event()
        self.running = 0

    def table(self) -> dict[str, Callable[[dict[str, Any], Caller], Mapping[str, Any]]]:
        return {"echo": self.echo, "wait": self.wait, "refuse": self.refuse, "break": self.break_}

    def echo(self, request: dict[str, Any], caller: Caller) -> dict[str, Any]:
        return {"request": request, "caller": [caller.node, caller.address, list(caller.epoch), caller.within]}

    def wait(self, request: dict[str, Any], caller: Caller) -> dict[str, Any]:
        self.running += 1
        self.release.wait(60)
        return {}

    def refuse(self, request: dict[str, Any], caller: Caller) -> dict[str, Any]:
        raise HaError("not now: the database is being copied")

    def break_(self, request: dict[str, Any], caller: Caller) -> dict[str, Any]:
        raise ZeroDivisionError("secret inside")


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    h = Handlers()
    yield h
    h.release.set()


@pytest.fixture
def limits() -> Limits:
    return PATIENT


@pytest.fixture
def server(pair: tuple[Keys, Keys], handlers: Handlers, limits: Limits) -> Iterator[SessionServer]:
    s = serve(pair[0], handlers.table(), ["127.0.0.1"], port=0, limits=limits)
    yield s
    s.close()


def joined(pair: tuple[Keys, Keys], port: int, limits: Limits = PATIENT) -> Session:
    return connect("127.0.0.1", pair[1], epoch, port=port, timeout=20, limits=limits)


@pytest.fixture
def client(pair: tuple[Keys, Keys], server: SessionServer, limits: Limits) -> Iterator[Session]:
    with_session = joined(pair, server.port, limits)
    yield with_session
    with_session.close()


class Nobody:
    """``peer.Home`` of a server that has nothing to say."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.because, self.alone = "", False

    def own(self) -> Own:
        return Own("vs-28", orders.Epoch(7, "vs-28"), orders.Phase.PASSIVE, True, "standby", "0", because=self.because)

    def identity(self) -> Identity:
        raise HaError("there is none")

    def port(self) -> int:
        return 5432

    def hand_over(self, asker: str, because: str, within: float) -> orders.Epoch:
        raise HaError("no")

    def lacks_standby(self) -> bool:
        return self.alone

    def signs_changed(self) -> None: ...

    def reachable(self, why: str) -> None:
        self.reached.append(why)


def test_a_peer_that_does_not_say_hello_is_not_connected(pair: tuple[Keys, Keys], server: SessionServer) -> None:
    """``server`` knows no ``hello``: another program, or another version, behind the right key."""
    site = Site(True, Server("127.0.0.1"), Server("127.0.0.2"), port=server.port)
    config, home = Config(site, Host(), False, "vs-28", "vs-166"), Nobody()
    peer = Peer(lambda: config, pair[1], home, time.monotonic)
    try:
        assert not peer.try_to_connect()
        assert not peer.connected and "unknown request 'hello'" in home.reached[-1]
    finally:
        peer.end()


def test_a_peer_that_heartbeat_hears_again_is_tried_often_and_shortly(
    pair: tuple[Keys, Keys], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first packet of a try amid a cut is lost, and TCP would repeat it a second later: a rejoin waits for that."""
    tried: Queue[float] = Queue()

    def connect(*_: object, reach: float, **__: object) -> Session:
        tried.put(reach)
        raise PeerError("cut")

    monkeypatch.setattr("ha_manager.peer.connect", connect)
    site, now = Site(True, Server("127.0.0.1"), Server("127.0.0.2")), [0.0]
    config = Config(site, Host(), False, "vs-28", "vs-166")
    peer = Peer(lambda: config, pair[1], Nobody(), lambda: now[0])
    peer.silent(True)
    thread = threading.Thread(target=peer.run, daemon=True)
    thread.start()
    try:
        now[0] = 2 * EAGER  # silent for long: as often as ever
        assert [tried.get(timeout=20) for _ in range(4)] == [EAGER_REACH] * 4
        peer.silent(False)
        assert tried.get(timeout=20) == EAGER_REACH
        now[0] += 2 * EAGER
        while tried.get(timeout=20) != REACH:
            pass
    finally:
        peer.end()
        thread.join(20)


def test_a_peer_is_asked_at_once_for_who_wants_to_know_now(pair: tuple[Keys, Keys], limits: Limits) -> None:
    """What it said last may be ten seconds old, and of another epoch."""
    said: Queue[int] = Queue()
    answers = {"hello": lambda *_: {}, "state": lambda *_: {"epoch": [next(numbers), "vs-28"]}}
    numbers = itertools.count(7)
    with contextlib.closing(serve(pair[0], answers, ["127.0.0.1"], port=0, limits=limits)) as there:
        site = Site(True, Server("127.0.0.1"), Server("127.0.0.1"), port=there.port)
        config = Config(site, Host(), False, "vs-28", "vs-166")
        peer = Peer(lambda: config, pair[1], Nobody(), lambda: 100.0)
        thread = threading.Thread(target=peer.run, daemon=True)
        thread.start()
        try:
            told = []
            for _ in range(3):
                peer.ask(lambda: said.put(peer.state["epoch"][0]))
                told.append(said.get(timeout=20))
            assert told == [told[0], told[0] + 1, told[0] + 2], "though no time has passed"
        finally:
            peer.end()
            thread.join(20)


WORDS = [
    ("standby", 0, {"contact": True, "fit": False}, False),
    ("primary", 0, {"contact": True, "fit": True}, False),
    ("primary", -1, {"contact": True, "fit": True}, True),
    ("primary", 0, {"contact": True, "fit": False}, True),
    ("primary", 0, {"contact": False, "fit": False}, False),
    ("primary", 0, {}, False),
]


@pytest.mark.parametrize(("postgres", "behind", "peer", "lacks"), WORDS)
def test_an_active_lacks_a_standby_that_streams_too_if_it_could_not_take_over(
    postgres: str, behind: int, peer: dict[str, bool], lacks: bool
) -> None:
    facts = orders.Facts(0, orders.Postgres(postgres), True, behind=behind)
    assert lacks_standby(facts, {"peer_state": peer} if peer else {}) is lacks


@pytest.mark.parametrize(("because", "alone", "often"), [("", False, False), ("no room", False, True), ("", True, True)])
def test_a_peer_in_trouble_is_asked_each_second(
    pair: tuple[Keys, Keys], limits: Limits, because: str, alone: bool, often: bool
) -> None:
    """So that `ha show` of the active says why the other one could not take over; else it is asked every ten seconds."""
    home, now, asked = Nobody(), [100.0], 0
    home.because, home.alone = because, alone
    theirs = Peer(lambda: config, pair[0], home, lambda: now[0]).handlers()

    def state(*request: Any) -> Mapping[str, Any]:
        nonlocal asked
        asked += 1
        return theirs["state"](*request)

    with contextlib.closing(serve(pair[0], theirs | {"state": state}, ["127.0.0.1"], port=0, limits=limits)) as there:
        site = Site(True, Server("127.0.0.1"), Server("127.0.0.1"), port=there.port)
        config = Config(site, Host(), False, "vs-28", "vs-166")
        peer = Peer(lambda: config, pair[1], home, lambda: now[0])
        try:
            assert peer.try_to_connect()
            for _ in range(4):
                peer._converse(at_once=False)
                now[0] += 1.1
            assert (asked, peer.state["because"]) == (4 if often else 1, because)
        finally:
            peer.end()


# --- asking ---------------------------------------------------------------------------------------------------------------


def test_a_request_reaches_its_handler_with_the_callers_name_address_and_epoch(client: Session) -> None:
    assert client.request("echo", timeout=20, x="ü", deep={"y": [1]}) == {
        "request": {"x": "ü", "deep": {"y": [1]}},
        "caller": ["vs-28", "127.0.0.1", [7, "vs-28"], 20],
    }


def test_a_refusal_arrives_in_its_own_words(client: Session) -> None:
    with pytest.raises(PeerRefused, match=r"^not now: the database is being copied$"):
        client.request("refuse")
    assert client.alive


def test_a_handler_that_breaks_says_so_without_its_inside(client: Session) -> None:
    with pytest.raises(PeerRefused) as e:
        client.request("break")
    assert "system log" in str(e.value)
    assert "secret" not in str(e.value)


def test_an_unknown_request_is_refused(client: Session) -> None:
    with pytest.raises(PeerRefused, match="unknown request 'nonsense'"):
        client.request("nonsense")


def test_many_threads_get_their_own_answers(client: Session) -> None:
    got: dict[int, list[int]] = {}

    def ask(me: int) -> None:
        got[me] = [client.request("echo", n=me * 1000 + i)["request"]["n"] for i in range(30)]

    threads = [threading.Thread(target=ask, args=(me,)) for me in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == {me: [me * 1000 + i for i in range(30)] for me in range(3)}


def test_a_long_line_passes_and_a_longer_one_is_refused_before_it_is_sent(client: Session) -> None:
    assert len(client.request("echo", x="x" * 1_000_000)["request"]["x"]) == 1_000_000
    with pytest.raises(PeerError, match="longer than"):
        client.request("echo", x="x" * (1 << 20))
    assert client.alive


def test_a_hung_handler_costs_its_request_only(client: Session, handlers: Handlers) -> None:
    with pytest.raises(PeerTimeout, match=r"did not answer 'wait' within 0\.2 s"):
        client.request("wait", timeout=0.2)
    assert client.request("echo", timeout=20)["request"] == {} and not handlers.release.is_set()


def test_hung_handlers_are_bounded(client: Session, handlers: Handlers) -> None:
    for _ in range(PATIENT.requests):
        with pytest.raises(PeerTimeout):
            client.request("wait", timeout=0.05)
    with pytest.raises(PeerRefused, match="busy"):
        client.request("echo")
    assert handlers.running == PATIENT.requests
    handlers.release.set()
    until(lambda: _answers(client))


def _answers(client: Session) -> bool:
    try:
        client.request("echo")
    except PeerRefused:
        return False
    return True


# --- living and ending ----------------------------------------------------------------------------------------------------


@quick
def test_an_idle_session_lives_longer_than_the_silence_that_would_end_it(client: Session, server: SessionServer) -> None:
    assert not client.ended.wait(QUICK.silence * 2)
    assert client.request("echo")
    assert server.sessions() == 1


def test_the_end_of_the_server_ends_requests_under_way(client: Session, server: SessionServer) -> None:
    failed: list[Exception] = []

    def ask() -> None:
        try:
            client.request("wait", timeout=60)
        except PeerError as e:
            failed.append(e)

    asking = threading.Thread(target=ask)
    asking.start()
    server.close()
    asking.join(30)
    assert [type(e) for e in failed] == [SessionClosed]
    with pytest.raises(SessionClosed):
        client.request("echo")
    assert client.ended.is_set()


def test_the_server_forgets_a_session_that_was_closed(client: Session, server: SessionServer) -> None:
    client.close()
    until(lambda: server.sessions() == 0)


def test_a_newer_session_takes_the_oldest_ones_place(pair: tuple[Keys, Keys], server: SessionServer) -> None:
    sessions = [joined(pair, server.port) for _ in range(PATIENT.sessions + 1)]
    assert sessions[0].ended.wait(30)
    assert all(s.request("echo") for s in sessions[1:])
    for s in sessions:
        s.close()


def test_a_rekey_in_the_middle_is_not_noticed(client: Session) -> None:
    client.transport.packetizer.REKEY_BYTES = 20_000
    for i in range(40):
        assert len(client.request("echo", x="x" * 5000, i=i)["request"]["x"]) == 5000


_SERVER = """
import sys
from pathlib import Path
from runtime.keys import Keys
from runtime.session import Limits, serve
server = serve(Keys(Path(sys.argv[1])), {"echo": lambda r, c: {}}, ["127.0.0.1"], port=0, limits=Limits(silence=0.5))
print(server.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(pair: tuple[Keys, Keys]) -> Iterator[tuple[int, int]]:
    """Another process that serves: its pid and its port."""
    p = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(pair[0].directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert p.stdout is not None
    assert p.stdin is not None
    yield p.pid, int(p.stdout.readline())
    os.kill(p.pid, signal.SIGCONT)
    p.kill()
    p.wait()
    p.stdin.close()
    p.stdout.close()


def test_a_stopped_peer_is_a_time_out_and_then_the_end(pair: tuple[Keys, Keys], process: tuple[int, int]) -> None:
    pid, port = process
    session = joined(pair, port, QUICK)
    session.request("echo")
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(PeerTimeout):
        session.request("echo", timeout=0.2)
    assert session.ended.wait(30)
    assert QUICK.silence - 0.1 < time.monotonic() - started
    assert session.because == f"no word for {QUICK.silence:g} s"


def test_a_stopped_peer_does_not_hang_who_sends_much(pair: tuple[Keys, Keys], process: tuple[int, int]) -> None:
    """Buffers full, paramiko's write waits for ever: the request must not, and the session must end."""
    pid, port = process
    session = joined(pair, port, QUICK)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(PeerError):
        for _ in range(100):
            session.request("echo", timeout=0.02, x="x" * 1_000_000)
            pytest.fail("a stopped process answered")
    for _ in range(40):
        with pytest.raises(PeerError):
            session.request("echo", timeout=0.02, x="x" * 1_000_000)
    assert session.ended.wait(30)
    until(lambda: not session.transport.is_alive())


def test_connecting_to_a_stopped_peer_ends_in_time(pair: tuple[Keys, Keys], process: tuple[int, int]) -> None:
    pid, port = process
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(PeerTimeout, match=r"vs-166 \(127\.0\.0\.1:\d+\) did not open a session within 0\.4 s"):
        connect("127.0.0.1", pair[1], epoch, port=port, timeout=0.4)


class _Mute(paramiko.ServerInterface):
    """Lets the client in and then says nothing to its subsystem, until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return 0

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return 0

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        self.over.wait(60)
        return False


def test_a_server_that_goes_mute_after_the_login_is_a_time_out(pair: tuple[Keys, Keys]) -> None:
    listener, mute = socket.create_server(("127.0.0.1", 0)), _Mute()

    def answer() -> None:
        transport = paramiko.Transport(listener.accept()[0])
        transport.add_server_key(paramiko.Ed25519Key.from_private_key(io.StringIO(pair[0].private_ssh())))
        transport.start_server(server=mute)

    threading.Thread(target=answer, daemon=True).start()
    with pytest.raises(PeerTimeout):
        connect("127.0.0.1", pair[1], epoch, port=listener.getsockname()[1], timeout=0.6)
    assert not mute.over.is_set()
    mute.over.set()
    listener.close()


def test_nobody_there_is_said_in_words(pair: tuple[Keys, Keys]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    with pytest.raises(PeerError, match=rf"vs-166 \(127.0.0.1:{port}\) can't be reached: Connection refused"):
        connect("127.0.0.1", pair[1], epoch, port=port)


def test_an_address_that_can_not_be_listened_on_is_named(pair: tuple[Keys, Keys]) -> None:
    with pytest.raises(HaError, match=r"can't listen on 192\.0\.2\.1:0"):
        serve(pair[0], {}, ["127.0.0.1", "192.0.2.1"], port=0)


# --- who gets in ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(pair: tuple[Keys, Keys], tmp_path: Path) -> Keys:
    """Knows the server's public key, but isn't its peer."""
    keys = Keys(tmp_path / "stranger")
    keys.make("vs-28")
    keys.accept(pair[0].show().line)
    return keys


def test_another_key_is_refused_with_the_remedy(server: SessionServer, stranger: Keys) -> None:
    with pytest.raises(KeyChanged, match="doesn't accept this server's key; `ha keys show` here, `ha keys accept`"):
        connect("127.0.0.1", stranger, epoch, port=server.port, timeout=20)
    assert server.sessions() == 0


def test_another_host_key_is_refused_with_the_remedy(pair: tuple[Keys, Keys], server: SessionServer, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "other")
    keys.make("vs-28")
    keys.accept(replace(pair[0].show(), ed25519=bytes(32)).line)
    with pytest.raises(KeyChanged, match=r"another key than the pinned one .*`ha keys accept --replace`"):
        connect("127.0.0.1", keys, epoch, port=server.port, timeout=20)


def test_without_a_pinned_key_there_is_no_session(tmp_path: Path, server: SessionServer) -> None:
    keys = Keys(tmp_path / "fresh")
    keys.make("vs-9")
    with pytest.raises(ConfigError, match="no key of the peer is pinned"):
        connect("127.0.0.1", keys, epoch, port=server.port, timeout=20)


def test_a_key_pinned_later_needs_no_restart(pair: tuple[Keys, Keys], tmp_path: Path) -> None:
    a, b = Keys(tmp_path / "a"), Keys(tmp_path / "b")
    a.make("vs-166")
    b.make("vs-28")
    b.accept(a.show().line)
    server = serve(a, {}, ["127.0.0.1"], port=0, limits=PATIENT)
    with pytest.raises(KeyChanged):
        joined((a, b), server.port)
    a.accept(b.show().line)
    joined((a, b), server.port).close()
    server.close()


def _transport(keys: Keys, server: SessionServer) -> paramiko.Transport:
    transport = paramiko.Transport(("127.0.0.1", server.port))
    transport.start_client(timeout=20)
    transport.auth_publickey("ha", paramiko.Ed25519Key.from_private_key(io.StringIO(keys.private_ssh())))
    return transport


@pytest.mark.parametrize(
    "attempt",
    [
        lambda t: t.open_session().exec_command("id"),
        lambda t: t.open_session().invoke_shell(),
        lambda t: t.open_session().get_pty(),
        lambda t: t.open_session().invoke_subsystem("sftp"),
        lambda t: t.open_channel("direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1)),
        lambda t: t.request_port_forward("127.0.0.1", 0),
    ],
    ids=["exec", "shell", "pty", "sftp", "forward", "reverse"],
)
def test_even_the_peer_gets_nothing_but_the_subsystem(
    pair: tuple[Keys, Keys], server: SessionServer, attempt: Callable[[paramiko.Transport], object]
) -> None:
    transport = _transport(pair[1], server)
    with pytest.raises(paramiko.SSHException):
        attempt(transport)
    transport.close()


@pytest.mark.parametrize("how", ["auth_none", "auth_password", "auth_interactive"])
def test_only_a_public_key_logs_in(server: SessionServer, how: str) -> None:
    transport = paramiko.Transport(("127.0.0.1", server.port))
    transport.start_client(timeout=20)
    arguments: dict[str, tuple[Any, ...]] = {"auth_password": ("ha", ""), "auth_interactive": ("ha", lambda *_: [])}
    with pytest.raises(paramiko.BadAuthenticationType) as e:
        getattr(transport, how)(*arguments.get(how, ("ha",)))
    assert e.value.allowed_types == ["publickey"]
    transport.close()


def test_no_channel_before_the_login(server: SessionServer) -> None:
    transport = paramiko.Transport(("127.0.0.1", server.port))
    transport.start_client(timeout=20)
    with pytest.raises((paramiko.SSHException, EOFError)):
        transport.open_session(timeout=20)
    transport.close()


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b"[1]\n",
        b"[" * 100_000 + b"\n",
        b'{"id":1,"do":"echo","x":"' + b"x" * (1 << 20) + b'"}\n',
        b"x" * (2 << 20),
    ],
    ids=["text", "array", "deep", "long", "endless"],
)
def test_what_is_no_request_ends_the_session(pair: tuple[Keys, Keys], server: SessionServer, line: bytes) -> None:
    channel = _transport(pair[1], server).open_session()
    channel.invoke_subsystem("ha")
    channel.settimeout(30)
    with contextlib.suppress(OSError, EOFError):  # it may be closed before all of it was taken
        channel.sendall(line)
    assert channel.recv(1) == b""
    until(lambda: server.sessions() == 0)


@pytest.mark.parametrize("epoch_", ["", '"epoch":7,', '"epoch":["7","x"],'])
def test_a_request_without_an_epoch_is_refused(pair: tuple[Keys, Keys], server: SessionServer, epoch_: str) -> None:
    channel = _transport(pair[1], server).open_session()
    channel.invoke_subsystem("ha")
    channel.settimeout(30)
    channel.sendall(f'{{"id":1,"do":"echo",{epoch_}"within":1}}\n'.encode())
    answer = channel.recv(1000)
    assert b'"ok":false' in answer
    assert b"epoch" in answer


# --- strangers ------------------------------------------------------------------------------------------------------------


def _silent(server: SessionServer, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 20, source_address=(source, 0))


@quick
def test_silent_strangers_are_bounded_and_end_in_time_and_the_peer_gets_in(
    pair: tuple[Keys, Keys], server: SessionServer
) -> None:
    before = threading.active_count()
    strangers = [_silent(server, f"127.0.0.{10 + i // 4}") for i in range(24)]
    until(lambda: server.strangers() == QUICK.strangers)
    assert threading.active_count() - before <= 2 * QUICK.strangers
    session = joined(pair, server.port)
    assert session.request("echo")
    until(lambda: server.strangers() == 0)
    until(lambda: threading.active_count() - before <= 8)
    assert session.request("echo")
    until(lambda: server.turned_away == 24)
    session.close()
    for s in strangers:
        s.close()


def test_one_address_holds_only_its_places(server: SessionServer) -> None:
    strangers = [_silent(server, "127.0.0.1") for _ in range(10)]
    until(lambda: server.turned_away == 10 - QUICK.strangers_per_address)
    assert server.strangers() == QUICK.strangers_per_address
    for s in strangers:
        s.close()


@quick
def test_who_logs_in_and_opens_nothing_is_turned_away(pair: tuple[Keys, Keys], server: SessionServer) -> None:
    transport = _transport(pair[1], server)
    until(lambda: not transport.is_active())
    assert server.strangers() == 0


@quick
def test_a_peer_that_sends_no_sign_of_life_is_turned_away(pair: tuple[Keys, Keys], server: SessionServer) -> None:
    transport = _transport(pair[1], server)
    with contextlib.suppress(EOFError, paramiko.SSHException):  # on a busy machine it is turned away before it is heard
        channel = transport.open_session()
        channel.invoke_subsystem("ha")
    until(lambda: server.sessions() == 0 and not transport.is_active())
