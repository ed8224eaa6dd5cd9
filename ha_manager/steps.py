"""The plan's steps as they are done on a real server.

Promise: each is idempotent and returns only when its proof holds. A copy is made beside its target and put in place by
renames, so that nobody reads half of it. The contract of the host's commands: environment HA_ROLE, HA_EPOCH, HA_NODE,
HA_PEER, HA_VIP, HA_REASON, HA_EVENT; exit status 0 done; from a hook, 100 stops the rest of the plan; anything else is tried
again. Source: design §6.
"""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from ha_manager.config import Config
from ha_manager.host import Paths
from ha_manager.lanes import Action, Stop, Token, command
from ha_manager.orders import Role
from ha_manager.plan import Run, names_of, steps_of
from manager.receiver.memory import Store
from runtime.control import Client
from runtime.durable import remove_durably, sync_folder, write_durably
from runtime.errors import CommandFailed, HaError

log = logging.getLogger(__name__)

#: exit status with which a hook stops the rest of the plan
ABORT = 100


class Steps:
    """Actions by step name. ``config`` is asked anew each time: SIGHUP may have replaced it."""

    def __init__(self, config: Callable[[], Config], place: Action | None = None) -> None:
        self._config = config
        self._place = place

    def action(self, name: str) -> Action:
        place = {"place": self._place} if self._place is not None else {}
        return {
            **place,
            "marker": self._marker,
            "base": self._base,
            "reload": self._reload,
            "policy_start": self._policy_start,
            "policy_stop": self._policy_stop,
            "request": self._request,
            "replicate": self._replicate,
        }.get(name, self._hooks)

    def existing(self, role: Role) -> frozenset[str]:
        """The steps that have something to do on this server."""
        config = self._config()
        commands, hooks = config.host.commands, config.host.paths.hooks
        there = {
            "base": config.host.paths.conf_ready.is_dir() and not committed_here(config.host.paths, config.node),
            "place": self._place is not None and bool(config.site.files),
            "reload": bool(commands.manager_ctl) and Path(commands.manager_ctl[0]).exists(),
            "policy_start": bool(commands.policy_server_start),
            "policy_stop": bool(commands.policy_server_stop),
            "request": bool(commands.active_request_cli),
            "replicate": bool(commands.full_replicate),
            **{event: bool(_executables(hooks / event.replace("_", "-"))) for event in HOOKS},
        }
        return frozenset(name for name in names_of(role, True, _all(role)) if there.get(name, True))

    def marked(self, role: Role) -> bool:
        """Its marker file exists."""
        return (self._config().host.paths.etc / role.value).exists()

    # --- actions --------------------------------------------------------------------------------------------------------

    def _marker(self, run: Run, token: Token) -> None:
        etc, role = self._config().host.paths.etc, run.change.role
        other = Role.PASSIVE if role is Role.ACTIVE else Role.ACTIVE
        etc.mkdir(parents=True, exist_ok=True)
        write_durably(etc / role.value, f"epoch {run.change.epoch}: {run.change.because}\n")
        remove_durably(etc / other.value)

    def _base(self, run: Run, token: Token) -> None:
        paths = self._config().host.paths
        replace_tree(paths.conf_ready, paths.base, token)

    def _reload(self, run: Run, token: Token) -> None:
        config = self._config()
        passive = run.change.role is Role.PASSIVE
        argv = [*config.host.commands.manager_ctl, "reload", *(["passive"] if passive else [])]
        command(argv, token, limit=run.step.limit, env=self._environment(run))
        self._prove_mode(config, passive)

    def _prove_mode(self, config: Config, passive: bool) -> None:
        path = config.host.paths.manager_run / "control"
        if not path.exists():
            return  # another Manager than ours: its exit status is all there is
        with Client(path, 2.0, name="the Manager") as manager:
            said = manager.request("status")
        if (said.get("mode") == "passive") is not passive:
            raise HaError(f"the Manager runs in {said.get('mode')} mode")

    def _policy_start(self, run: Run, token: Token) -> None:
        self._policy(run, token, self._config().host.commands.policy_server_start, running=True)

    def _policy_stop(self, run: Run, token: Token) -> None:
        self._policy(run, token, self._config().host.commands.policy_server_stop, running=False)

    def _policy(self, run: Run, token: Token, argv: tuple[str, ...], *, running: bool) -> None:
        commands, env = self._config().host.commands, self._environment(run)
        command(argv, token, limit=commands.limit, env=env)
        if not commands.policy_server_status:
            return
        try:
            command(commands.policy_server_status, token, limit=commands.limit, env=env)
            runs = True
        except CommandFailed:
            runs = False
        if runs is not running:
            raise HaError(f"the policy server {'runs' if runs else 'does not run'} although its command ended with 0")

    def _request(self, run: Run, token: Token) -> None:
        commands = self._config().host.commands
        command(commands.active_request_cli, token, limit=commands.limit, env=self._environment(run))

    def _replicate(self, run: Run, token: Token) -> None:
        commands = self._config().host.commands
        command(commands.full_replicate, token, limit=commands.limit, env=self._environment(run))

    def _hooks(self, run: Run, token: Token) -> None:
        event = run.step.name.replace("_", "-")
        run_hooks(self._config().host.paths.hooks / event, token, limit=run.step.limit, env=self._environment(run, event))

    def _environment(self, run: Run, event: str = "") -> dict[str, str]:
        change = run.change
        return environment_of(self._config(), change.role.value, change.epoch.number, change.because, event)


HOOKS = ("becoming_active", "active", "becoming_passive", "passive")


def environment_of(config: Config, role: str, epoch: int, reason: str, event: str = "") -> dict[str, str]:
    """What every command and hook of the host finds in its environment."""
    return {
        "HA_ROLE": role, "HA_EPOCH": str(epoch), "HA_NODE": config.node, "HA_PEER": config.peer,
        "HA_VIP": config.site.virtual_ip, "HA_REASON": reason, "HA_EVENT": event,
    }  # fmt: skip


def run_hooks(folder: Path, token: Token, *, limit: float, env: dict[str, str]) -> None:
    """Every executable of ``folder``, in name order. The first that fails ends it; ``ABORT`` raises Stop."""
    for hook in _executables(folder):
        try:
            command([str(hook)], token, limit=limit, env=env)
        except CommandFailed as failed:
            if failed.code == ABORT:
                raise Stop(f"hook {hook} ended with {ABORT}: {failed.stderr.strip()}") from failed
            raise


def committed_here(paths: Paths, node: str) -> bool:
    """What is in conf_ready came from ``node``'s own base, which has whatever was changed there since."""
    try:
        holds = Store(paths.manager_state).load().holding.holds
    except HaError as wrong:
        log.warning("where %s came from is not known: %s", paths.conf_ready, wrong)
        return False
    return holds is not None and holds.version.node == node


def _executables(folder: Path) -> list[Path]:
    """In name order; backups and package leftovers (a dot or a tilde in the name) are left out, as run-parts does."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return []
    return [folder / name for name in names if "." not in name and "~" not in name and os.access(folder / name, os.X_OK)]


def _all(role: Role) -> frozenset[str]:
    return frozenset(step.name for step in steps_of(role))


def replace_tree(source: Path, target: Path, token: Token) -> None:
    """Make ``target`` a copy of ``source``: copied beside it, flushed, swapped by renames. Links are copied as links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    if not target.exists() and old.exists():
        os.rename(old, target)  # crashed between the two renames: the old content was never given up
    for leftover in (fresh, old):
        _remove(leftover)
    _copy(source, fresh, token)
    if target.exists():
        if same_tree(fresh, target):
            shutil.rmtree(fresh)
            return
        os.rename(target, old)
    os.rename(fresh, target)
    sync_folder(target.parent)
    _remove(old)


def _remove(path: Path) -> None:
    """A tree, or a link to one: an administrator may have put one in the target's place."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _copy(source: Path, target: Path, token: Token) -> None:
    token.check()
    target.mkdir()
    for entry in os.scandir(source):
        destination = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            _copy(Path(entry.path), destination, token)
        elif entry.is_symlink():
            os.symlink(os.readlink(entry.path), destination)
        elif entry.is_file(follow_symlinks=False):
            _copy_file(Path(entry.path), destination)
            token.check()
    _like(source, target)
    sync_folder(target)


def _copy_file(source: Path, target: Path) -> None:
    with open(source, "rb") as reading, open(target, "xb") as writing:
        shutil.copyfileobj(reading, writing, 1024 * 1024)
        writing.flush()
        os.fsync(writing.fileno())
    _like(source, target)


def _like(source: Path, target: Path) -> None:
    shutil.copystat(source, target)
    about = source.stat()
    os.chown(target, about.st_uid, about.st_gid)


def same_tree(one: Path, two: Path) -> bool:
    """Whether both hold the same names, kinds, bytes, modes and owners."""
    a, b = one.lstat(), two.lstat()
    if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid):
        return False
    if stat.S_ISLNK(a.st_mode):
        return os.readlink(one) == os.readlink(two)
    if stat.S_ISDIR(a.st_mode):
        names = sorted(os.listdir(one))
        return names == sorted(os.listdir(two)) and all(same_tree(one / name, two / name) for name in names)
    return a.st_size == b.st_size and filecmp.cmp(one, two, shallow=False)
