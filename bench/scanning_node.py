"""The proxy of a scanning node, for tests: says who it is, for as long as the client wants.

``python -m bench.scanning_node NAME PORT…``: each TCP port answers a line ``id`` with NAME and the client's address,
``download MILLISECONDS CHUNKS`` with so many numbered lines at that pace, and anything else (keep-alive) with an echo; the same
ports by UDP answer with NAME. ``GET …`` is answered as HTTP. A port given as ``ADDRESS:PORT`` is bound to that address.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast


def serve(name: str) -> type[asyncio.DatagramProtocol]:
    class Datagram(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
            cast(asyncio.DatagramTransport, self.transport).sendto(name.encode(), address)

    return Datagram


async def _client(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            words = line.decode(errors="replace").split()
            match words:
                case ["id"]:
                    writer.write(f"{name} {writer.get_extra_info('peername')[0]}\n".encode())
                case ["download", pace, chunks]:
                    for number in range(int(chunks)):
                        writer.write(f"{name} {number}\n".encode())
                        await writer.drain()
                        await asyncio.sleep(int(pace) / 1000)
                case ["bulk", size]:
                    block = b"x" * 65536
                    for _ in range(int(size) // len(block)):
                        writer.write(block)
                        await writer.drain()
                case ["GET", *_]:
                    while (await reader.readline()).strip():
                        pass
                    body = f"{name}\n".encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                case _:
                    writer.write(line)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def _main(name: str, ports: list[str]) -> None:
    loop = asyncio.get_running_loop()
    for each in ports:
        address, _, port = each.rpartition(":")
        await asyncio.start_server(lambda r, w: _client(name, r, w), address or None, int(port), backlog=1024)
        await loop.create_datagram_endpoint(serve(name), (address or "::", int(port)))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2:]))
