"""The clients' half of the director at work: the group, its socket, the rules in the kernel, the checks, the load.

Promise: see ``seam.Cluster``. Whatever this node can't do (no key, no nftables, an interface that is away) is an alarm in
words, and the rest goes on: without a key it serves alone, without nftables it gets no clients but those that it holds the VIP
for. All decisions are ``group``'s; this carries them out in their order. Source: design §8.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from director import custodian, plane, report
from director.dataplane import DataPlane, Inspection
from director.discovery import Message
from director.ears import Ears
from director.group import Group
from director.groupmodel import (
    Apply,
    Deaf,
    Drain,
    Effect,
    Event,
    Heard,
    Leave,
    Listen,
    Report,
    Role,
    Say,
    Send,
    Successor,
    Tick,
    Wire,
    Wish,
)
from director.health import STACK, PortCheck
from director.interfaces import Interfaces, places
from director.load import LoadMeter
from director.members import Member
from director.plane import Content, Own, Place
from director.post import Post
from director.seam import Hooks
from director.settings import Config
from director.sysctls import KEPT, Sysctls
from runtime.address import NetworkError, mac
from runtime.clock import boottime
from runtime.control import Handler, Request
from runtime.errors import HaError
from runtime.loop import Loop, Timer
from runtime.nft import NftError
from runtime.priority import relax
from runtime.rtnetlink import AddressSocket
from runtime.version import package
from runtime.worker import Worker

log = logging.getLogger(__name__)

#: exists while this node is drained, also over a restart
DRAINED = Path("/var/lib/director/drained")
#: seconds between two looks at interfaces, rules and kernel settings
_LOOK = 1.0
#: seconds between two looks at the kernel's settings
_SETTINGS_EVERY = 5.0
#: seconds for which a predecessor's rules may go on
_KEPT = 15.0


class ProxyCluster:
    def __init__(self, config: Config, loop: Loop, hooks: Hooks, drained: Path = DRAINED) -> None:
        self._config, self._loop, self._hooks, self._drained = config, loop, hooks, drained
        self._interfaces = Interfaces(AddressSocket())
        self._own: dict[str, Own] = {}
        self._plane = DataPlane(settings=Sysctls(KEPT), others=hooks.rule_changes)
        self._plane_problem = ""
        self._checks: list[PortCheck] = []
        self._load: LoadMeter | None = None
        self._worker: Worker | None = None
        self._inspecting = False
        self._post = Post(loop, self._deliver, hooks.alarm)
        self._timers: dict[str, Timer] = {}
        self._version = package()
        self._ears = Ears()
        self._deaf = False
        self._unfit = False
        self._group: Group | None = None
        self._failed: list[str] = []
        #: by which the others know this process; its MAC at the start, whatever becomes of the interface
        self._identity = ""
        self._settings_due = 0.0
        #: until when what a killed predecessor left in the kernel goes on, unless it is known before who owns what
        self._kept_until = 0.0

    # --- seam.Cluster

    def start(self) -> None:
        self._own = self._interfaces.own(self._config)
        self._worker = Worker(self._loop.selector, STACK)
        self._worker.do(relax, lambda _: None)
        self._load = LoadMeter(self._loop, self._worker, [each.to for each in self._config.redirects])
        self._load.start()
        self._check_ports()
        balance = self._config.balance
        self._group = Group(self._me(), self._keys(), balance.buckets, balance.heartbeat, boottime(), secrets.randbits(20))
        self._kept_until = boottime() + _KEPT if self._plane.is_left_behind() else 0.0
        self._load_plane()
        self._tune_in()
        self._look()
        self._tick()

    def role(self, master: bool, because: str) -> None:
        self._give(Role(master))

    def apply(self, config: Config) -> None:
        old, self._config = self._config, config
        self._own = self._interfaces.own(config)
        self._the_group().reconfigure(self._keys(), config.balance.buckets, config.balance.heartbeat)
        self._load_plane()  # before anything is said, and heard, of what is new
        if old.redirects != config.redirects or old.management_ip != config.management_ip:
            assert self._load is not None
            self._load.ports = [each.to for each in config.redirects]
            self._check_ports()
        if (old.management_ip, _wire(old)) != (config.management_ip, _wire(config)):
            self._tune_in()
        self._give(Report(self._me()))

    def status(self) -> dict[str, Any]:
        group = self._the_group()
        return report.status(self._config, group, self._post.counters.as_json(), self._plane_status(), boottime())

    def handlers(self) -> Mapping[str, Handler]:
        return {"drain": self._asked_drain, "explain": self._asked_explain, "check": self._asked_check}

    def stop(self) -> None:
        stays = (self._plane.loaded or self._kept_until > 0) and self._load is not None and self._load.serves()
        self._give(Leave(stays))
        for timer in self._timers.values():
            timer.cancel()
        for check in self._checks:
            check.close()
        self._ears.close()
        self._post.close()
        if self._load is not None:
            self._load.close()
        if self._worker is not None:
            self._worker.close()
        if stays:
            custodian.start([each.to for each in self._config.redirects], self._plane.leave())
        else:
            self._plane.remove()
        self._plane.close()

    # --- this node

    def _the_group(self) -> Group:
        if self._group is None:
            raise HaError("the director is still starting")
        return self._group

    def _keys(self) -> list[str]:
        return [plane.key_of(each) for each in self._config.redirects]

    def _me(self) -> Member:
        config, load = self._config, self._load
        ports = {plane.key_of(each.redirect): bool(each.verdict.well) for each in self._checks}
        management = next((own for own in self._own.values() if config.management_ip in own.addresses.values()), None)
        self._identity = self._identity or (management.mac if management else _mac_of(self._interfaces, config))
        return Member(
            mac=self._identity,
            name=os.uname().nodename[:64],
            ip=config.management_ip,
            ip6=(management.addresses.get(6) if management else "") or "::",
            version=self._version,
            places=places(config, self._own),
            priority=self._hooks.vrrp().priority,
            capacity=config.balance.capacity,
            own_share=config.balance.own_share,
            cpu=load.cpu if load else 0.0,
            connections=load.connections if load else 0,
            ports=ports,
            draining=self._drained.exists(),
            plane=self._plane_problem,
            whole_node=config.balance.mode == "whole_node",
        )

    def _check_ports(self) -> None:
        """A port that goes on being tried in the same way keeps its verdict."""
        before, self._checks = self._checks, []
        address = self._config.management_ip
        for redirect in self._config.redirects:
            same = next((each for each in before if each.address == address and each.tries(redirect)), None)
            if same is not None:
                before.remove(same)
                same.redirect = redirect
            self._checks.append(same or PortCheck(self._loop, redirect, address, self._verdict))
            if same is None:
                self._checks[-1].start()
        for check in before:
            check.close()
        self._tell_ports()

    def _verdict(self, check: PortCheck) -> None:
        """In the reference's words; each redirect by itself."""
        port = check.redirect.to
        if check.verdict.well:
            log.info("swg-mon: port %d reachable", port)
        else:
            log.warning("swg-mon: port %d not reachable: %s", port, check.verdict.why)
        self._tell_ports()
        if self._group is not None:
            self._give(Report(self._me()))

    def _tell_ports(self) -> None:
        failed = sorted({str(each.redirect.to) for each in self._checks if each.verdict.well is False})
        if failed != self._failed:
            self._failed = failed
            log.info("swg-mon: current state: %s", "failure" if failed else "ok")
            said = f"this node's port {', '.join(failed)} does not answer: it gets no clients of it" if failed else ""
            self._hooks.alarm("ports", said)
            self._hooks.fitness(failed)

    # --- time

    def _tick(self) -> None:
        self._post.hear()  # before a silence is judged
        self._give(Tick())
        self._timers["tick"] = self._loop.call_at(max(self._the_group().deadline(), boottime() + 0.005), self._tick)

    def _look(self) -> None:
        """Interfaces, rules, settings: has anybody changed them?"""
        self._timers["look"] = self._loop.call_after(_LOOK, self._look)
        own = self._interfaces.own(self._config)
        if own != self._own:
            self._own = own
            self._load_plane()
        away = [vip.interface for vip in self._config.vips if vip.interface not in own]
        self._hooks.alarm("interface", f"interface {', '.join(sorted(set(away)))} is away" if away else "")
        if not self._post.interface:
            self._tune_in()
        self._plane.rest()
        if (self._plane_problem or not self._plane.loaded) and self._config.redirects:
            self._load_plane()
        elif self._plane.disturbed() and not self._inspecting and self._worker is not None:
            self._inspecting = True
            inspection = self._plane.inspection()
            self._worker.do(inspection.run, lambda raised: self._inspected(inspection, raised))
        self._hooks.alarm("lbid", self._post.strangers.text(self._config.balance.lbid, boottime()))
        if boottime() >= self._settings_due:
            self._settings_due = boottime() + _SETTINGS_EVERY
            self._hooks.alarm("settings", "; ".join(self._plane.settings()))
        self._give(Report(self._me()))

    def _listen(self, on: bool) -> None:
        interface = self._post.interface
        if not on or not interface:
            self._ears.close()
            return
        came = self._ears.anything(interface)
        self._ears.ask(interface, [each.member.ip for each in self._the_group().known.values()])
        self._give(Wire(came))

    def _be_deaf(self, on: bool) -> None:
        self._deaf = on
        where = self._post.interface or self._config.vrrp.interface
        said = f"nothing reaches this node on {where}, a one-way cable perhaps: any other director is to take over"
        self._hooks.alarm("deaf", said if on else "")
        self._tell_fit()

    def _tell_fit(self) -> None:
        unfit = self._deaf or bool(self._plane_problem)
        if unfit != self._unfit:
            self._unfit = unfit
            self._hooks.unfit(unfit)

    def _inspected(self, inspection: Inspection, raised: Exception | None) -> None:
        self._inspecting = False
        if raised is not None:
            log.warning("the rules can't be looked at: %s", raised)
            return
        try:
            if problem := self._plane.judge(inspection, self._content()):
                log.warning("%s: repaired", problem)
                self._hooks.alarm("rules", f"{problem} ({self._plane.repaired} times by now); repaired")
            else:
                self._hooks.alarm("rules", "")
        except NftError as refused:
            self._plane_failed(refused)

    # --- the kernel

    def _content(self) -> Content:
        group = self._the_group()
        known = {mac: {vip: Place(*place) for vip, place in each.member.places.items()} for mac, each in group.known.items()}
        known[group.me.mac] = {vip: Place(*place) for vip, place in places(self._config, self._own).items()}
        serving = {key: frozenset(group.serving(key)) for key in group.keys}
        tables = group.tables
        return Content(group.me.mac, known, tables.current, tables.pending, serving, group.roster.askable())

    def _load_plane(self) -> None:
        if not self._config.redirects:
            self._plane.remove()
            self._plane_problem = ""
            self._hooks.alarm("plane", "")
            self._tell_fit()
            return
        if boottime() < self._kept_until and not set(self._keys()) <= self._the_group().tables.current.keys():
            return
        self._kept_until = 0.0
        layout = plane.layout(self._config, self._own)
        try:
            if self._plane.is_laid_out(layout) and not self._plane_problem:
                self._plane.update(self._content())
            else:
                self._plane.load(layout, self._content())
        except NftError as refused:
            self._plane_failed(refused)
            return
        if self._plane_problem:
            log.info("the rules are loaded")
        self._plane_problem = ""
        self._hooks.alarm("plane", "")
        self._tell_fit()

    def _update_plane(self) -> None:
        if not self._plane.loaded:
            if self._config.redirects:
                self._load_plane()
            return
        try:
            self._plane.update(self._content())
        except NftError as refused:
            self._plane_failed(refused)

    def _plane_failed(self, refused: NftError) -> None:
        self._plane_problem = str(refused)[:120]
        self._hooks.alarm("plane", f"this node can't share out clients, nor serve those of others: {refused}")
        self._tell_fit()

    def _plane_status(self) -> dict[str, Any]:
        return {
            "loaded": self._plane.loaded or self._kept_until > 0,
            "problem": self._plane_problem,
            "repaired": self._plane.repaired,
        }

    # --- messages

    def _tune_in(self) -> None:
        balance, address = self._config.balance, self._config.management_ip
        self._post.open(
            self._identity, balance.lbid, balance.key_file, address, lambda: self._interfaces.management(self._config)
        )

    def _deliver(self, message: Message, source: str, fresh: bool) -> None:
        self._give(Heard(message, source, fresh))

    def _give(self, event: Event) -> None:
        if self._group is None:
            return
        for effect in self._group.handle(event, boottime()):
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._post.send(effect)
            case Apply():
                self._update_plane()
            case Say(text):
                log.info("%s", text)
            case Successor(designated):
                self._hooks.successor(designated)
            case Drain(on):
                self._drain(on)
            case Listen(on):
                self._listen(on)
            case Deaf(on):
                self._be_deaf(on)

    def _drain(self, on: bool) -> None:
        log.info("this node %s", "drains: it gets no new clients" if on else "takes clients again")
        try:
            if on:
                self._drained.parent.mkdir(parents=True, exist_ok=True)
                self._drained.touch()
            else:
                self._drained.unlink(missing_ok=True)
        except OSError as error:
            self._hooks.alarm("drain", f"that this node drains can't be kept: {error}")
        self._give(Report(self._me()))

    # --- what operators ask

    def _asked_drain(self, request: Request) -> dict[str, Any]:
        group = self._the_group()
        wanted = str(request.fields.get("node", ""))
        on = bool(request.fields.get("on", True))
        member = report.find(group, wanted)
        if member.mac != group.me.mac and not group.director:
            raise HaError(f"no director is heard, so {member.name} can't be asked; ask on {member.name} itself")
        self._give(Wish(member.mac, on, secrets.randbits(63)))
        return {"node": member.name, "draining": on}

    def _asked_explain(self, request: Request) -> dict[str, Any]:
        client = str(request.fields.get("client", ""))
        return {"lines": report.explain(self._config, self._the_group(), client, request.fields.get("port"))}

    def _asked_check(self, request: Request) -> dict[str, Any]:
        clients = self._load.clients if self._load is not None else {}
        networks = {vip.interface: self._interfaces.networks(vip.interface) for vip in self._config.vips}
        return {"findings": report.check(self._config, self._the_group(), clients, networks, self._post.counters.dropped)}


def _wire(config: Config) -> tuple[int, str]:
    return config.balance.lbid, config.balance.key_file


def _mac_of(interfaces: Interfaces, config: Config) -> str:
    try:
        return mac(interfaces.management(config)).hex(":")
    except NetworkError:
        return (b"\x02" + secrets.token_bytes(5)).hex(":")
