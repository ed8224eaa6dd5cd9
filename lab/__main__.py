"""``python -m lab``: machines on this machine, for people. Source: design §2."""

from __future__ import annotations

from lab.cli import main

if __name__ == "__main__":
    main()
