"""The director's process: ``python -m director.daemon [--foreground | --check]``.

Promise: whoever starts it learns whether it started: exit status 0 when it serves; 6 and a message with file, line and remedy
when it is not configured; 1 otherwise. SIGTERM lets go of the virtual addresses, whose successor takes over at once; SIGHUP
reads the configuration again and applies the difference. One process, one loop, nothing in it that waits. The priority comes
before the imports. Source: design §8.
"""

from __future__ import annotations

import sys

from runtime.priority import DIRECTOR, hurry


def main(argv: list[str] | None = None) -> None:
    hurry(DIRECTOR)
    import argparse

    from director.config import MODULE_XML
    from director.process import RUN, check, serve

    parser = argparse.ArgumentParser(prog="director", description="Holds the proxy's virtual addresses.")
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground, log to stderr")
    parser.add_argument("--check", action="store_true", help="only say whether it could start with this configuration")
    parser.add_argument("--config", default=str(MODULE_XML), help="module.xml (default: %(default)s)")
    parser.add_argument("--run-dir", default=RUN, help="folder of pid file and socket (default: %(default)s)")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if args.check:
        sys.exit(check(args.config))
    serve(args.config, args.run_dir, args.foreground)


if __name__ == "__main__":
    main()
