"""``swg-mon -c``, ``swg-mon -v -c`` (also as ``mwg-mon``): do the redirected ports of this node answer?

Promise: asks the ports themselves, now, whether or not a director runs; the words are the reference's: ``current state: ok`` or
``failure``, then a line for each port. With -v, what each redirect is and why it fails. Exit status: 0 ok, 1 failure, 6 not
configured. Source: mwg-7-proxy-ha-overview-ja, "scanning動作の確認"; Skyhigh, "swg-mon".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from director.config import load
from director.health import PortCheck
from director.settings import Config
from runtime.errors import ConfigError
from runtime.loop import Loop

_SPARE = 1.0


def tried(config: Config) -> list[PortCheck]:
    """Every redirect's check, tried once."""
    loop = Loop()
    left = set(range(len(config.redirects)))
    checks: list[PortCheck] = []

    def changed(check: PortCheck) -> None:
        left.discard(next(i for i, each in enumerate(config.redirects) if each is check.redirect))

    for redirect in config.redirects:
        checks.append(PortCheck(loop, redirect, config.management_ip, changed))
    for check in checks:
        check.start()
    end = loop.now() + max((each.check.timeout for each in config.redirects), default=0.0) + _SPARE
    while left and loop.now() < end:
        loop.once(end - loop.now())
    for check in checks:
        check.close()
    loop.close()
    return checks


def lines(checks: Sequence[PortCheck], verbose: bool) -> list[str]:
    """What is printed."""
    ports: dict[int, bool] = {}
    for check in checks:
        ports[check.redirect.to] = ports.get(check.redirect.to, True) and bool(check.verdict.well)
    out = [f"current state: {'ok' if all(ports.values()) else 'failure'}"]
    out += [f"port {port} {'reachable' if well else 'not reachable'}" for port, well in ports.items()]
    if verbose:
        for check in checks:
            kind = check.redirect.check.kind
            out.append(f"{check.redirect}: {check.verdict.why or ('not checked' if kind == 'none' else f'{kind} ok')}")
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="swg-mon", description="Tries the redirected ports of this node.")
    parser.add_argument("-c", action="store_true", required=True, help="show the current state")
    parser.add_argument("-v", action="store_true", help="say more about each redirect")
    args = parser.parse_args(argv)
    try:
        config = load()
    except (ConfigError, OSError) as wrong:
        print(f"swg-mon: {wrong}", file=sys.stderr)
        return 6
    checks = tried(config)
    print("\n".join(lines(checks, args.v)))
    return 0 if all(check.verdict.well for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
