"""The replication over TLS: nothing else where the active has it, and nobody in between, whatever certificate is shown."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from postgres_pair import PASSWORD, Node, Pair, Writer, follow, pair, until

from ha_manager.sql import Session, conninfo
from runtime.errors import ConfigError, ReplicationError

pytestmark = pytest.mark.lab
#: protocol 1234.5679: "may we speak TLS?"
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def certificate(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> tuple[Path, Path]:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    tomorrow = now + datetime.timedelta(days=1)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now, tomorrow)
    signed = made.sign(key, hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None)
    files = (folder / f"{name}.crt", folder / f"{name}.key")
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    files[1].chmod(0o600)
    shutil.chown(files[1], "postgres")
    return files


def switch_on(node: Node) -> None:
    """As an administrator does: in postgresql.conf."""
    names = certificate(node.root, "server", ec.generate_private_key(ec.SECP256R1()))
    with open(node.config.config_file, "a") as conf:
        conf.write(f"ssl = on\nssl_cert_file = '{names[0]}'\nssl_key_file = '{names[1]}'\n")
    node.tls = True


@pytest.fixture
def clusters() -> Iterator[Pair]:
    with pair() as made:
        made.one.initdb()
        switch_on(made.one)
        made.one.host = made.two.host = "::1"
        made.one.initdb = lambda **_: None  # type: ignore[method-assign]  # active() makes nothing new
        yield made


def encrypted(node: Node) -> list[str]:
    text = "SELECT l.ssl::text FROM pg_stat_replication r JOIN pg_stat_ssl l USING (pid) WHERE state = 'streaming'"
    session = node.session()
    try:
        return [row[0] or "" for row in session.rows(text, 2.0)]
    finally:
        session.close()


class Relay:
    """Between the standby and its active: speaks TLS (its own certificate) or refuses to, and passes everything on."""

    def __init__(self, folder: Path, port: int, *, offers_tls: bool) -> None:
        self._port = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate(folder, "relay", ec.generate_private_key(ec.SECP256R1())))
        self._answer = b"S" if offers_tls else b"N"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.asked = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            assert client.recv(8) == SSL_REQUEST
            client.sendall(self._answer)
            if self._answer == b"S":
                client = self._context.wrap_socket(client, server_side=True)
            self.asked += 1
            server = socket.create_connection(("127.0.0.1", self._port))
            server.sendall(SSL_REQUEST)
            assert server.recv(1) == b"S"
            open_minded = ssl.create_default_context()
            open_minded.check_hostname, open_minded.verify_mode = False, ssl.CERT_NONE
            server = open_minded.wrap_socket(server)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.close()


def test_everything_goes_over_tls_where_the_active_has_it(clusters: Pair) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    assert encrypted(one) == ["true"]
    info = conninfo(host="127.0.0.1", port=one.config.port, user="ha_replication", dbname="postgres", password=PASSWORD)
    Session(f"{info} sslmode=require", 2.0).close()
    with pytest.raises(ReplicationError, match=r"rejects connection .* no encryption"):
        Session(f"{info} sslmode=disable", 2.0)
    # back by rewind, which connects by itself
    two.database.make_detached()
    one.database.set_names_relaxed()
    one.sql("INSERT INTO t VALUES (1)")
    one.crash()
    two.database.make_primary(2)
    two.database.settle_primary(2)
    one.up()
    assert follow(one, two, 2)[0] == "diverged"
    assert encrypted(two) == ["false"], "two has no certificate of its own"
    assert any("the replication from vs-28 goes without TLS" in note for note in one.notes)


@pytest.mark.parametrize("offers_tls", [True, False])
def test_nobody_in_between_gets_anything(clusters: Pair, offers_tls: bool) -> None:
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    relay = Relay(clusters.root, one.config.port, offers_tls=offers_tls)
    try:
        for tls in (True, None):
            log = two.config.log_file.read_text()
            asked = relay.asked
            two.database.make_standby(replace(one.upstream(1), host="127.0.0.1", port=relay.port, tls=tls))
            until(lambda: relay.asked > asked + 1 if offers_tls else "SSL was required" in _new(two, log), 5.0)  # noqa: B023
            assert two.facts().following == -1
            words = ("channel binding check failed", "SSL was required")[not offers_tls]
            until(lambda: words in _new(two, log), 5.0, words)  # noqa: B023
    finally:
        relay.close()


def _new(node: Node, before: str) -> str:
    return node.config.log_file.read_text()[len(before) :]


def test_tls_that_is_switched_on_or_off_later(clusters: Pair) -> None:
    """The administrator edits and reloads; the passive hears of it (the session)."""
    clusters.synchronous()
    one, two = clusters.one, clusters.two
    conf = one.config.config_file.read_text()
    writer, hba = Writer(one), one.config.state_dir / "pg_hba.conf"
    for tls in (False, True):
        one.config.config_file.write_text(conf if tls else conf.replace("ssl = on", "ssl = off"))
        one.database._server.reload()
        until(lambda: one.facts().tls is tls, 5.0)  # noqa: B023  # a look follows the reload up
        until(lambda: ("\nhostssl replication ha_" in hba.read_text()) is tls, 5.0)  # noqa: B023
        one.tls = tls
        two.database.make_standby(one.upstream(1))
        until(lambda: encrypted(one) == [str(tls).lower()], 5.0, f"TLS {tls}")  # noqa: B023
    assert writer.stop() and not writer.error
    # a word that is not known yet changes nothing
    two.database.make_standby(replace(one.upstream(1), tls=None))
    time.sleep(0.3)
    assert encrypted(one) == ["true"]


def test_a_certificate_that_the_login_can_t_be_bound_to_is_refused(clusters: Pair) -> None:
    one = clusters.one
    certificate(one.root, "server", ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match=r"server\.crt: .*Ed25519"):
        one.database.check()
