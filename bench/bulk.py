"""Bytes and connections, as many as there can be: the two ends of a measurement of throughput.

    python -m bench.bulk serve PORT          gives or takes whatever a client asks for
    python -m bench.bulk down|up|connect ADDRESS PORT SOURCE SECONDS     prints bits or connections a second
    python -m bench.bulk turns               the same for each line of standard input, with no time spent on starting

Promise: no Python between the kernel's copies but one call for each mebibyte; ``connect`` is a connection, one octet each way,
and its end.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time

_BLOCK = 1 << 20
#: IP_BIND_ADDRESS_NO_PORT of linux/in.h
_NO_PORT = 24
#: a measured connection; the director's check of the port
_SHORT = {b"c": b"c", b"G": b"HTTP/1.0 200 OK\r\n\r\n", b"": b""}


def serve(port: int) -> None:
    server = socket.create_server(("", port), backlog=1024)
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        asked = connection.recv(1)
        if asked in _SHORT:
            connection.sendall(_SHORT[asked])
            connection.close()
        else:
            threading.Thread(target=_bulk, args=(connection, asked), daemon=True).start()


def _bulk(connection: socket.socket, asked: bytes) -> None:
    block = bytearray(_BLOCK)
    with connection, contextlib.suppress(OSError):
        while asked == b"d" or connection.recv_into(block):
            if asked == b"d":
                connection.sendall(block)


def _open(address: str, port: int, source: str, asked: bytes) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)  # else each bind looks for a port that is free for every target
    connection.bind((source, 0))
    connection.connect((address, port))
    connection.sendall(asked)
    return connection


def transfer(asked: str, address: str, port: int, source: str, seconds: float) -> float:
    """Bits a second."""
    block = bytearray(_BLOCK)
    count = 0
    with _open(address, port, source, asked[:1].encode()) as connection:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            count += connection.recv_into(block) if asked == "down" else connection.send(block)
        return count * 8 / (time.monotonic() - began)


def connect(address: str, port: int, source: str, seconds: float) -> float:
    """Connections a second."""
    began = time.monotonic()
    count = 0
    while time.monotonic() - began < seconds:
        with _open(address, port, source, b"c") as connection:
            # The server ends it first: what waits for late packets then is its side, not one of the few ports of the client.
            assert connection.recv(1) == b"c" and not connection.recv(1)
        count += 1
    return count / (time.monotonic() - began)


def measure(asked: str, address: str, port: str, source: str, seconds: str) -> float:
    if asked == "connect":
        return connect(address, int(port), source, float(seconds))
    return transfer(asked, address, int(port), source, float(seconds))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            serve(int(port))
        case ["turns"]:
            for line in sys.stdin:
                print(measure(*line.split()), flush=True)
        case words:
            print(measure(*words))
