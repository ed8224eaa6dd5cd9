"""Clients of a proxy group, with long downloads and connections that say nothing for a while; and what is asked of them.

``Clients`` holds the connections of many addresses of one namespace; ``Served`` is for whoever has such clients and a group.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab.namespace import Namespace


@dataclass
class Download:
    """One connection: from which address, who served it, what was received and when, how it ended."""

    source: str
    node: str = ""
    chunks: list[float] = field(default_factory=list)
    broken: str = ""
    done: bool = False

    def gap(self, since: float = 0.0) -> float:
        """The longest wait between two lines, seconds."""
        times = [at for at in self.chunks if at >= since]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


class Clients:
    """Connections of the client's addresses, in an event loop of its own; to ``vip`` unless another one is named."""

    def __init__(self, ns: Namespace, vip: str) -> None:
        self._vip = vip
        self._loop = asyncio.new_event_loop()
        self._ns = ns
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.downloads: list[Download] = []
        self._tasks: list[object] = []
        self._idle: list[asyncio.StreamWriter] = []

    def _run(self) -> None:
        with self._ns:  # for this thread: sockets are made here
            self._loop.run_forever()

    def cancel(self) -> None:
        """End all downloads and idle connections."""

        async def cancel() -> None:
            while self._idle:
                self._idle.pop().close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(cancel(), self._loop).result(10)

    def close(self) -> None:
        self.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def start(self, source: str, vip: str = "", port: int = 80, pace: int = 20, chunks: int = 100000) -> Download:
        download = Download(source)
        self.downloads.append(download)
        self._tasks.append(
            asyncio.run_coroutine_threadsafe(self._download(download, vip or self._vip, port, pace, chunks), self._loop)
        )
        return download

    async def _download(self, download: Download, vip: str, port: int, pace: int, chunks: int) -> None:
        try:
            reader, writer = await asyncio.open_connection(vip, port, local_addr=(download.source, 0))
            asyncio.current_task().add_done_callback(lambda _: writer.close())  # type: ignore[union-attr]
            writer.write(f"download {pace} {chunks}\n".encode())
            for number in range(chunks):
                words = (await reader.readline()).decode().split()
                if not words or int(words[1]) != number or download.node not in ("", words[0]):
                    download.broken = f"got {words} for line {number}"
                    return
                download.node = words[0]
                download.chunks.append(time.monotonic())
            download.done = True
        except OSError as error:
            download.broken = str(error) or type(error).__name__

    def ask(self, source: str, vip: str = "", port: int = 80, text: str = "id", limit: float = 5.0) -> list[str]:
        """One question on a connection of its own; the words of the answer."""

        async def ask() -> list[str]:
            reader, writer = await asyncio.open_connection(vip or self._vip, port, local_addr=(source, 0))
            writer.write(text.encode() + b"\n")
            words = (await reader.readline()).decode().split()
            writer.close()
            return words

        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(ask(), limit), self._loop).result(limit + 1)

    def idle(self, source: str, vip: str = "", port: int = 80) -> Idle:
        opened = asyncio.run_coroutine_threadsafe(
            asyncio.open_connection(vip or self._vip, port, local_addr=(source, 0)), self._loop
        ).result(5)
        self._idle.append(opened[1])
        return Idle(self._loop, *opened)


class Idle:
    """A keep-alive connection: says something now and then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._loop, self._reader, self._writer = loop, reader, writer

    def says(self, text: str = "id") -> list[str]:
        return self.send(text).result(6)

    def send(self, text: str = "id") -> concurrent.futures.Future[list[str]]:
        """The answer's words, when it has come."""

        async def exchange() -> list[str]:
            self._writer.write(text.encode() + b"\n")
            return (await self._reader.readline()).decode().split()

        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(exchange(), 5), self._loop)


class Served(ABC):
    """``clients`` at the addresses ``sources`` use a group."""

    clients: Clients
    sources: Sequence[str]

    @abstractmethod
    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for it; AssertionError if that takes too long."""

    def served_by(self, source: str, port: int = 80) -> str:
        return self.clients.ask(source, port=port)[0]

    def downloads(self) -> list[Download]:
        """One for each source; all have begun."""
        started = [self.clients.start(source) for source in self.sources]
        self.until(lambda: all(len(each.chunks) > 5 or each.broken for each in started), "downloads begin")
        whole(started)
        return started

    def go_on(self, downloads: list[Download], lines: int = 25) -> None:
        """Each receives so many more lines, and none is broken."""
        had = [len(each.chunks) for each in downloads]
        self.until(
            lambda: all(len(d.chunks) >= n + lines or d.broken for d, n in zip(downloads, had, strict=True)),
            "downloads go on",
        )
        whole(downloads)


def whole(downloads: list[Download]) -> None:
    """AssertionError naming those that are not."""
    assert not (found := broken(downloads)), found


def broken(downloads: list[Download]) -> list[str]:
    return [f"{each.source} on {each.node}: {each.broken}" for each in downloads if each.broken]
