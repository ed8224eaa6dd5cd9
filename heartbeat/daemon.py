"""heartbeat: the daemon that decides who is active.

Promise: whoever starts it learns whether it started: exit status 0 when it serves; 6 and a message with file, line and remedy
when it is not configured; 1 otherwise. The priority comes before the imports. Source: design §5; ``loop`` is the daemon itself.

    python -m heartbeat.daemon [--foreground | --check] [--config-dir /etc/heartbeat]
"""

from __future__ import annotations

import sys

from runtime.priority import hurry


def main(argv: list[str] | None = None) -> None:
    hurry()
    import argparse

    from heartbeat.loop import Folders, check, serve

    parser = argparse.ArgumentParser(prog="heartbeat", description="Decides which of the two policy servers is active.")
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground, log to stderr")
    parser.add_argument("--check", action="store_true", help="only say whether it could start with this configuration")
    for name, default, what in (
        ("config", Folders.config, "ha.cf, haresources and authkeys"),
        ("state", Folders.state, "the record"),
        ("run", Folders.run, "role file, pid file and socket"),
        ("manager", Folders.manager, "ha_manager's pid files"),
    ):
        parser.add_argument(f"--{name}-dir", default=default, help=f"folder of {what} (default: %(default)s)")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    folders = Folders(args.config_dir, args.state_dir, args.run_dir, args.manager_dir)
    if args.check:
        sys.exit(check(folders))
    serve(folders, args.foreground)


if __name__ == "__main__":
    main()
