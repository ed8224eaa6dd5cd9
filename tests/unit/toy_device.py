"""A device for tests of the notifier: the real session and the real rule of the receiving side, its trees in memory.

It takes contents as the real one does and believes nothing: what is not whole is not prepared. ``before``: called with the
name of each request, to break something there.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import paramiko

from manager import wire
from manager.holding import Holding, Outdated, Step, Unprepared, Version
from manager.manifest import Entry, Kind, Manifest
from runtime import frames
from runtime.keys import Keys, PublicKey
from runtime.session import Caller, Limits, Refusal, serve


class ToyDevice:
    def __init__(self, name: str, folder: Path, trusted: Sequence[PublicKey]) -> None:
        self.name = name
        self.keys = Keys(folder / name)
        self.keys.make(name)
        self.trusted = list(trusted)
        self.holding = Holding()
        self.manifests: dict[str, Manifest] = {}
        self.contents: dict[str, bytes] = {}
        self.received: list[str] = []
        self.requests: list[str] = []
        self.before: Callable[[str], None] = lambda do: None
        self.passive = False
        self.introduced: list[str] = []
        self.package = "0.1.0"
        self.port = 0
        self._parts: dict[str, Any] = {}
        self._lock = threading.RLock()
        self.start()

    def start(self) -> None:
        handlers = {
            each: self._guarded(each, getattr(self, f"_{each}"))
            for each in ("hello", "status", "introduce", "prepare", "prepared", "switch")
        }
        self._server = serve(
            self.keys, handlers, ["127.0.0.1"], port=self.port, limits=replace(Limits(), silence=25.0),
            subsystems={"contents": self._open}, trusted=lambda: self.trusted, show_key=True,
        )  # fmt: skip
        self.port = self._server.port

    def stop(self) -> None:
        self._server.close()

    @property
    def holds(self) -> Manifest | None:
        return self.manifests.get(self.holding.holds.digest) if self.holding.holds else None

    def text(self, name: str) -> str:
        """Of a file in force."""
        assert self.holds is not None
        return self.contents[self.holds.entries[name].content].decode()

    def _guarded(self, do: str, handler: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        def guarded(fields: dict[str, Any], caller: Caller) -> dict[str, Any]:
            self.requests.append(do)
            self.before(do)
            with self._lock:
                try:
                    return handler(fields)
                except Outdated as no:
                    highest = wire.of_version(no.highest)
                    raise Refusal(str(no), "outdated", highest=highest) from no
                except Unprepared as no:
                    raise Refusal(str(no), "unprepared") from no

        return guarded

    def _hello(self, fields: dict[str, Any]) -> dict[str, Any]:
        self._admit(fields)
        h = self.holding
        return {
            "holds": wire.of_release(h.holds), "staged": wire.of_release(h.staged), "highest": wire.of_version(h.highest),
            "obeys": wire.of_version(self._above(wire.version(fields["version"]))), "node": self.name, "package": self.package,
        }  # fmt: skip

    def _above(self, version: Version) -> Version | None:
        return self.holding.highest if self.holding.highest is not None and version < self.holding.highest else None

    def _admit(self, fields: dict[str, Any]) -> None:
        version = wire.version(fields["version"])
        if self.holding.highest is None or version >= self.holding.highest:
            self.holding.admit(version)

    def _status(self, fields: dict[str, Any]) -> dict[str, Any]:
        self.passive = bool(fields["isPassive"])
        held = {"holds": wire.of_release(self.holding.holds), "applied": wire.of_release(self.holding.holds)}
        obeys = wire.of_version(self._above(wire.version(fields["version"])))
        return {"mode": "active", "alarms": {}, "package": self.package, "replication": "streaming", "obeys": obeys, **held}

    def _introduce(self, fields: dict[str, Any]) -> dict[str, Any]:
        self.introduced.append(fields["line"].split()[1])
        return {}

    def _prepare(self, fields: dict[str, Any]) -> dict[str, Any]:
        release = wire.release(fields["release"])
        if fields["part"] == 1:
            self.holding.prepare(release)
            if fields["from"] is not None and fields["from"] not in self.manifests:
                raise Refusal("that manifest is not here", "base")
            base = self.manifests[fields["from"]].entries if fields["from"] else {}
            self._parts = dict(base)
        for name in fields["gone"]:
            del self._parts[name]
        for name, kind, mode, content, size in fields["changed"]:
            self._parts[name] = Entry(Kind(kind), mode, content, size)
        if fields["part"] < fields["parts"]:
            return {}
        manifest = Manifest(dict(self._parts))
        self.manifests[release.digest] = manifest
        lacks = {sha: size for sha, size in manifest.contents.items() if sha not in self.contents}
        return {"lacks": sorted(lacks), "bytes": sum(lacks.values()), "free": 1 << 40}

    def _prepared(self, fields: dict[str, Any]) -> dict[str, Any]:
        release = wire.release(fields["release"])
        manifest = self.manifests.get(release.digest, Manifest({}))
        whole = all(sha in self.contents for sha in manifest.contents)
        self.holding.prepared(release, manifest.digest if whole else "")
        return {}

    def _switch(self, fields: dict[str, Any]) -> dict[str, Any]:
        release = wire.release(fields["release"])
        step = self.holding.step(release)
        self.holding.switched(release)
        return {"step": step.value if isinstance(step, Step) else str(step)}

    def _open(self, channel: paramiko.Channel) -> None:
        threading.Thread(target=self._take, args=(channel,), daemon=True).start()

    def _take(self, channel: paramiko.Channel) -> None:
        reader, parts = frames.Reader(), b""
        while data := channel.recv(65536):
            for header, content in reader.feed(data):
                if "sha" in header:
                    parts += content
                    if header["last"]:
                        self.before("content")
                        if hashlib.sha256(parts).hexdigest() == header["sha"]:
                            self.contents[header["sha"]] = parts
                            self.received.append(header["sha"])
                        parts = b""
                elif header["do"] == "end":
                    channel.sendall(frames.encode({"ok": True}))
