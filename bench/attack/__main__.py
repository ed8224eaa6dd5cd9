"""Attacks on a pair while it changes, one after the other, each judged.

    sudo .venv/bin/python -m bench.attack --lab mine --seconds 200 --seed 1 --json FILE [--only walsender]

Promise: one line for each attack; no more begins after ``--seconds``; FILE keeps what was found, and what is in it is not
tried again, so a campaign goes on in slices; the lab stays up for the next one (``python -m lab --name mine down``). Where
something doesn't hold the logs of both servers and what the commands said are kept in ``--folder``.
Source: issue "Postgres: no acknowledged write lost …" ("Done when"); docs/lab.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench import pgbench
from bench.attack.deck import DISKS, Attack, deck
from bench.attack.judge import Court, new_lines
from bench.attack.scene import NotHit, Scene
from bench.pair import SERVERS, Pair
from bench.screen import Screen, shown
from bench.stage import need_root
from bench.writers import Writers
from ha_manager.host import CONF
from lab.api import Lab
from runtime.clock import boottime
from runtime.errors import HaError
from runtime.timing import PROFILES

#: Until all is well after a fault (seconds)
_WELL = 60.0
_EVERY = 0.02
_SMALL = """set -e
pg_dropcluster --stop "$(ls /etc/postgresql)" main
for disk in "1000 /var/lib/postgresql" "400 /var/lib/ha_manager" "3 /var/lib/heartbeat"; do
    set -- $disk
    mkdir -p "$2"; mode=$(stat -c %a "$2"); mount -t tmpfs -o size=$1m,mode=$mode none "$2"
done
chown postgres: /var/lib/postgresql
pg_createcluster 15 main >/dev/null
"""
_MARK = "/var/lib/ha_manager/attacked"
_KEPT = (("/var/lib/ha_manager/diverged", "*"), ("/var/lib/postgresql", "*/main.diverged-*"))


@dataclass
class Campaign:
    screen: Screen
    pair: Pair
    writers: Writers
    profile: str
    folder: Path
    found: list[dict[str, Any]] = field(default_factory=list)
    _words: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.court = Court(self.pair, self.writers)

    def attack(self, attack: Attack, watched: bool) -> None:
        """Play one and judge it. Raises NotSo, Silent when the pair isn't well beforehand."""
        self.court.wait(_WELL)
        scene = Scene(self.pair, self.writers, attack, self.profile, self.pair.active())
        since, hit, wrong, well = boottime(), False, list[str](), 0.0
        try:
            with contextlib.suppress(NotHit):
                scene.play(lambda: self._look(scene) if watched and attack.seconds > 1.0 else None)
                hit = True
            well = self.court.wait(_WELL)
            wrong = self.court.judge(scene, since)
        except TimeoutError:
            wrong = ["the phase did not end"]
        except HaError as bad:
            wrong = [str(bad)]
        outcome = "WRONG" if wrong else "ok" if hit else "not hit"
        pause = self.court.pause(since)
        figures = {"outcome": outcome, "well_s": round(well, 1), "pause_s": round(pause, 2), "wrong": wrong}
        self.found.append({"attack": str(attack)} | figures)
        self.screen.say(f"{outcome:7} {attack}: pause {pause:.2f} s, well after {well:.1f} s")
        for text in wrong:
            self.screen.error(f"    {text}")
        self._keep(scene, bool(wrong))
        if not wrong:
            _make_room(self.pair)

    def _look(self, scene: Scene) -> None:
        for name in SERVERS:
            for word in ("show", "explain"):
                scene.say(name, (word,), self.pair.ha(name, word, check=False))

    def _keep(self, scene: Scene, all_: bool) -> None:
        logs = {name: scene.log(name) for name in SERVERS}
        title = f"=== {scene.attack}\n"
        with (self.folder / "commands.txt").open("a") as file:
            file.write(title + "\n".join(scene.said) + "\n")
        with (self.folder / "sentences.txt").open("a") as file:
            file.write(title + "\n".join(new_lines(logs.values(), self._words)) + "\n")
        if not all_:
            return
        place = self.folder / f"wrong-{len(list(self.folder.glob('wrong-*'))) + 1}"
        place.mkdir()
        (place / "what").write_text(
            f"{json.dumps(self.found[-1], indent=1)}\n" + "\n".join(scene.said) + f"\n{self.pair.explain()}"
        )
        for name, log in logs.items():
            (place / f"{name}.log").write_text(log)
            for path in self.pair.node(name).path("/var/log/postgresql").glob("*.log") if self.pair.node(name).is_on else ():
                (place / f"{name}.{path.name}").write_text(path.read_text(errors="replace")[-200000:])


@contextlib.contextmanager
def staged(
    screen: Screen, name: str, profile: str, small: bool, folder: Path, load: bool, rejoin: str
) -> Iterator[tuple[Pair, Writers]]:
    """The lab of the slice before, mended, or a new one."""
    lab = Lab(name, progress=screen.say)
    pair = Pair(lab, screen.say)
    mark = f"{profile} {small} {rejoin}"
    if not (lab.is_up and _goes_on(lab, mark)):
        lab.down()
        shutil.rmtree(folder / "ledger", ignore_errors=True)  # with the tables that it is of
        lab.up()
        for server in SERVERS if small else ():
            lab.node(server).sh(_SMALL)
        pair.install(profile)
        for server in SERVERS:
            lab.node(server).write(str(CONF), lab.node(server).read(str(CONF)) + f"[postgres]\nrejoin = {rejoin}\n")
        pair.start()
        pgbench.prepare(pair)
        for server in SERVERS:
            lab.node(server).write(_MARK, mark)
    _make_room(pair)
    writers = Writers(lab, folder / "ledger", every=_EVERY)
    beside = pgbench.Load(lab.node("client"), folder) if load else None
    writers.start()
    try:
        for server in SERVERS:
            writers.start_local(server)
        yield pair, writers
    finally:
        writers.stop()
        if beside is not None:
            beside.stop()


def _make_room(pair: Pair) -> None:
    """What is kept of replaced databases, their log or all of them: a small disk holds few."""
    for name in SERVERS:
        if any(list(pair.node(name).path(folder).glob(pattern)) for folder, pattern in _KEPT):
            pair.ha(name, "diverged", "remove", "--all", "--force", check=False)


def _goes_on(lab: Lab, mark: str) -> bool:
    """What a slice that was ended left is undone."""
    lab.heal()
    for server in SERVERS:
        node = lab.node(server)
        if not node.is_on:
            lab.power_on(server)
        for pid in node.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        node.sh("rm -f " + " ".join(f"{disk}/filler" for disk in DISKS.values()))
        if not node.path(_MARK).exists() or node.read(_MARK) != mark:
            return False
        node.run(["ha", "start"], check=False)
    return True


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--lab", "lab_name", default="bench-attack", show_default=True, help="Name of the lab; it stays up.")
@click.option("--seconds", default=200.0, show_default=True, help="No attack begins later.")
@click.option("--seed", default=1, show_default=True, help="Gives the order.")
@click.option("--only", multiple=True, help="Attacks with this text or pattern; several: all of them.")
@click.option("--profile", type=click.Choice(sorted(PROFILES)), default="recommended", show_default=True)
@click.option("--kinds", default="steps,links", show_default=True, help="steps,links,disks; with disks no power is cut.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Results; gone on after.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("/var/tmp/ha-attack"), show_default=True)
@click.option("--rejoin", type=click.Choice(["quickest", "rewind"]), default="quickest", show_default=True)
@click.option("--load", is_flag=True, help="pgbench -c4 beside.")
@click.option("--watched", is_flag=True, help="ha show and ha explain on both under faults of more than a second.")
@click.option("--list", "listed", is_flag=True, help="Only print the names.")
def main(
    lab_name: str, seconds: float, seed: int, only: tuple[str, ...], profile: str, kinds: str, json_file: Path | None,
    folder: Path, rejoin: str, load: bool, watched: bool, listed: bool,
) -> None:  # fmt: skip
    """Attack a pair while it changes. Ends with 1 if anything did not hold."""
    chosen = tuple(kinds.split(","))
    attacks = deck(seed, chosen, only, PROFILES[profile].solo)
    if listed:
        click.echo("\n".join(map(str, attacks)))
        return
    need_root()
    before = json.loads(json_file.read_text())["attacks"] if json_file is not None and json_file.exists() else []
    tried = {each["attack"] for each in before}
    left = [attack for attack in attacks if str(attack) not in tried]
    folder.mkdir(parents=True, exist_ok=True)
    end, found = boottime() + seconds, list[dict[str, Any]]()
    with shown("attack") as screen:
        screen.say(f"{len(attacks)} attacks, {len(left)} of them not tried; seed {seed}, profile {profile}")
        with staged(screen, lab_name, profile, "disks" in chosen, folder, load, rejoin) as (pair, writers):
            campaign = Campaign(screen, pair, writers, profile, folder, found)
            while left and boottime() < end:
                campaign.attack(left.pop(0), watched)
                if json_file is not None:  # each time: a slice may be ended from outside
                    figures = {"profile": profile, "seed": seed, "attacks": [*before, *found]}
                    json_file.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(any(each["wrong"] for each in found))


if __name__ == "__main__":
    main()
