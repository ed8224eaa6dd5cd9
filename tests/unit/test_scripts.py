"""Resource scripts as real processes: found, run in order off the loop, ended in time with all that they started."""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heartbeat.haresources import Resource
from heartbeat.resources import RETRY
from heartbeat.scripts import Limits, Services, script_of

#: writes its arguments into the log; does what the file beside the log, named like the action, says
SCRIPT = """#!/bin/sh
for last; do :; done
echo "$(basename $0) $*" >> {log}
[ ! -f {folder}/$(basename $0).$last ] || . {folder}/$(basename $0).$last
"""


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.scripts = folder / "resource.d"
        self.scripts.mkdir()
        self.selector = selectors.DefaultSelector()
        self.troubles: dict[str, str] = {}
        self.late = 0.0

    def script(self, name: str, **does: str) -> Resource:
        file = self.scripts / name
        file.write_text(SCRIPT.format(log=self.log, folder=self.folder))
        file.chmod(0o755)
        for action, text in does.items():
            (self.folder / f"{name}.{action}").write_text(text)
        return Resource(name, (), 1)

    def services(self, *resources: Resource, limits: Limits = Limits()) -> Services:  # noqa: B008
        folders = (str(self.folder / "nothing-here"), str(self.scripts))
        return Services(resources, self.selector, self.clock, self.told, folders, limits)

    def clock(self) -> float:
        return time.monotonic() + self.late

    def told(self, name: str, text: str) -> None:
        self.troubles[name] = text

    def ran(self) -> list[str]:
        ran = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return ran

    def until(self, holds: Callable[[], bool], limit: float = 20.0) -> None:
        """Turn the loop until ``holds``."""
        end = time.monotonic() + limit
        while not holds():
            assert time.monotonic() < end, f"troubles: {self.troubles}, ran: {self.ran()}"
            for key, mask in self.selector.select(0.05):
                key.data(mask)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.selector.close()


def started(services: Services) -> Callable[[], bool]:
    return lambda: all(each["state"] == "started" for each in services.describe())


def dead(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_arguments_order_and_what_was_left_behind(scene: Scene) -> None:
    first = Resource(scene.script("one", status="exit 3").script, ("/dev/sda1", "/data"), 1)
    services = scene.services(first, scene.script("two", status="echo running"))
    services.start()
    scene.until(started(services))
    assert scene.ran() == ["one /dev/sda1 /data status", "one /dev/sda1 /data start", "two status"]
    services.stop()
    assert not services.stopped
    scene.until(lambda: services.stopped)
    assert scene.ran() == ["two stop", "one /dev/sda1 /data stop"] and set(scene.troubles.values()) <= {""}
    assert services.describe()[0] == {
        "resource": "one::/dev/sda1::/data", "state": "stopped", "script": str(scene.scripts / "one"),
    }  # fmt: skip


def test_the_loop_does_not_wait_for_a_script(scene: Scene) -> None:
    services = scene.services(
        scene.script("slow", status="exit 3", start="echo $$ > {}; sleep 60".format(scene.folder / "pid"))
    )
    services.start()
    scene.until((scene.folder / "pid").exists)
    assert services.describe()[0]["state"] != "started"
    services.stop()  # the start is broken off, and what it began is stopped
    scene.until(lambda: services.stopped)
    assert scene.ran() == ["slow status", "slow start", "slow stop"] and dead(scene.folder / "pid")


def test_a_script_that_fails_is_an_alarm_with_its_last_words(scene: Scene) -> None:
    services = scene.services(
        scene.script("web", status="exit 3", start="echo no such user wasp >&2; exit 7"), scene.script("next", status="exit 3")
    )
    services.start()
    scene.until(lambda: "resource-web" in scene.troubles)
    assert scene.troubles["resource-web"] == "resource web: start failed: it ended with 7: no such user wasp"
    assert scene.ran() == ["web status", "web start"]
    (scene.folder / "web.start").unlink()
    scene.late = RETRY
    assert services.due <= scene.clock()
    services.tick()
    scene.until(started(services))
    assert scene.troubles["resource-web"] == "" and scene.ran() == ["web start", "next status", "next start"]


def test_a_hanging_script_is_killed_with_everything_it_started(scene: Scene) -> None:
    pids = [scene.folder / name for name in ("own", "child")]
    hang = f"trap '' TERM; echo $$ > {pids[0]}; sleep 60 & echo $! > {pids[1]}; wait"
    services = scene.services(scene.script("left"), scene.script("stuck", stop=hang), limits=Limits(stop=0.5))
    services.start()
    scene.until(started(services))
    scene.ran()
    services.stop()
    scene.until(lambda: services.stopped)
    assert scene.ran() == ["stuck stop", "left stop"]
    assert "did not end within 0.5 s and was killed" in scene.troubles["resource-stuck"]
    scene.until(lambda: all(dead(pid) for pid in pids))


def test_what_a_script_leaves_running_on_purpose_lives_on(scene: Scene) -> None:
    pid = scene.folder / "daemon"
    services = scene.services(scene.script("server", status="exit 3", start=f"sleep 60 & echo $! > {pid}"))
    services.start()
    scene.until(started(services))
    assert not dead(pid)
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_missing_script_is_an_alarm_not_the_end(scene: Scene) -> None:
    services = scene.services(Resource("nowhere", (), 3))
    services.start()
    scene.until(lambda: bool(scene.troubles.get("resource-nowhere")))
    assert "there is no script nowhere in " in scene.troubles["resource-nowhere"]
    services.stop()
    scene.until(lambda: services.stopped)


def test_whoever_runs_a_script_may_be_killed(scene: Scene) -> None:
    services = scene.services(scene.script("slow", status="exit 3", start="sleep 1"))
    services.start()
    scene.until(lambda: "slow start" in (scene.log.read_text() if scene.log.exists() else ""))
    os.kill(services._pid, signal.SIGKILL)
    scene.until(lambda: bool(scene.troubles.get("resource-slow")))
    assert "was killed" in scene.troubles["resource-slow"]


def test_a_script_gets_an_ordinary_environment(scene: Scene) -> None:
    """No descriptor of heartbeat's, no ignored signal, a group of its own, default umask."""
    said = scene.folder / "said"
    script = f"ls /proc/$$/fd > {said}; grep SigIgn /proc/$$/status >> {said}; umask >> {said}; ps -o pgid= -p $$ >> {said}"
    services = scene.services(scene.script("looks", status="exit 3", start=script + "; pwd >> " + str(said)))
    null = os.open("/dev/null", os.O_RDONLY)
    secret = fcntl.fcntl(null, fcntl.F_DUPFD, 100)  # inheritable; beyond those that a shell opens for itself
    os.close(null)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        services.start()
        scene.until(started(services))
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        os.close(secret)
    *descriptors, ignored, umask, group, where = said.read_text().split("\n")[:-1]
    assert str(secret) not in descriptors
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGUSR1 - 1)) == 0
    assert (umask, where) == ("0022", "/") and int(group) != os.getpgrp()


def test_heartbeats_end_waits_for_what_stops_but_not_for_ever(scene: Scene) -> None:
    services = scene.services(scene.script("quick"), scene.script("slow", stop="sleep 0.2"))
    services.start()
    scene.until(started(services))
    services.stop()
    services.finish(scene.clock() + 20)
    assert services.stopped
    services.start()
    scene.until(started(services))
    (scene.folder / "slow.stop").write_text("sleep 30")
    services.stop()
    began = time.monotonic()
    services.finish(scene.clock() + 0.1)
    assert time.monotonic() - began < 20 and not services.stopped
    os.kill(services._pid, signal.SIGTERM)


def test_the_first_folder_that_has_an_executable_wins(tmp_path: Path) -> None:
    folders: list[Any] = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "web").mkdir()
    for folder, mode in ((folders[1], 0o755), (folders[2], 0o755)):
        (folder / "web").write_text("#!/bin/sh\n")
        (folder / "web").chmod(mode)
    names = [str(folder) for folder in folders]
    assert script_of(Resource("web", (), 1), names) == str(folders[1] / "web")
    (folders[1] / "web").chmod(0o644)
    assert script_of(Resource("web", (), 1), names) == str(folders[2] / "web")
    assert script_of(Resource("other", (), 1), names) == ""
