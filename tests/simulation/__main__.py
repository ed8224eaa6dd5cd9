"""``python -m tests.simulation``: replay one seed with its trace, or search many.

python -m tests.simulation --seed 83             one run, every event, effect and reason
python -m tests.simulation --runs 20000          many, over all cores; failures shrunk and traced at the end
python -m tests.simulation --runs 5000 --symmetric --solo release
python -m tests.simulation --runs 100000 --compiled    five times as many in the same time (needs gcc)
"""

from __future__ import annotations

import argparse
import sys
import time

from . import compiled, transcripts
from .campaign import Tally, Variant, results
from .schedules import WAYS


def main() -> int:
    options = _options()
    if options.compiled:
        compiled.restart([argument for argument in sys.argv[1:] if argument != "--compiled"])
    variant = Variant(
        options.most, options.way, options.symmetric, options.solo,
        arp_check=options.arp, fence=options.fence, witnesses=options.witnesses, asynchronous=options.asynchronous,
        switching=options.switching,
    )  # fmt: skip
    if options.transcripts:
        print(f"written anew: {', '.join(transcripts.write()) or 'nothing, all are as they were'}")
        return 0
    if options.seed is not None:
        return _replay(variant, options.seed, options.shrink)
    return _search(variant, options.first, options.runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Two cores under seeded faults.")
    parser.add_argument("--seed", type=int, help="replay this seed with its trace")
    parser.add_argument("--transcripts", action="store_true", help="write tests/scenarios/*.txt anew")
    parser.add_argument("--shrink", action="store_true", help="with --seed: shrink a failing schedule first")
    parser.add_argument("--runs", type=int, default=1000, help="how many seeds to search (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--most", type=int, default=6, help="faults in a schedule at the most")
    parser.add_argument("--way", choices=("all", *WAYS), default="all", help="how schedules are chosen (default: by the seed)")
    parser.add_argument(
        "--symmetric", action="store_true", help="with a cut of every path between the servers in each schedule"
    )
    parser.add_argument("--solo", choices=("silence", "release"), default="silence", help="rule 6b permitted or not")
    parser.add_argument("--arp", action="store_true", help="with the check of the ping node's ARP entry")
    parser.add_argument("--fence", action="store_true", help="with fence devices")
    parser.add_argument("--witnesses", type=int, default=0, help="with so many witnesses")
    parser.add_argument("--compiled", action="store_true", help="compile core and simulator with mypyc first (once)")
    parser.add_argument("--asynchronous", action="store_true", help='synchronous="off" on both servers')
    parser.add_argument("--switching", action="store_true", help="module.xml is changed to and fro meanwhile")
    return parser.parse_args()


def _replay(variant: Variant, seed: int, shrunk: bool) -> int:
    result = variant.play(seed)
    schedule = variant.shrunk(result) if shrunk and result.failures else result.schedule
    result = variant.play(seed, schedule, tracing=True)
    print("\n".join(result.trace))
    print(f"\nseed {seed}, schedule:")
    print("\n".join(f"  {fault}" for fault in schedule))
    print("\n".join(result.failures) or f"held: {result.acked} writes acknowledged, in order after {result.seconds:.1f} s")
    return 1 if result.failures else 0


def _search(variant: Variant, first: int, runs: int) -> int:
    tally, began = Tally(), time.monotonic()
    for result in results(variant, range(first, first + runs)):
        tally.add(result)
        if tally.runs % 50 == 0:
            rate = tally.runs / (time.monotonic() - began)
            print(
                f"\r{tally.runs}/{runs}, {rate:.0f} a second, {len(tally.failed)} failed ", end="", file=sys.stderr, flush=True
            )
    print(f"\r{tally}", file=sys.stderr)
    for result in tally.failed[:3]:
        print(f"\n--- seed {result.seed}, shrunk")
        schedule = variant.shrunk(result)
        print("\n".join(variant.play(result.seed, schedule, tracing=True).trace))
        print(f"seed {result.seed}: {result.failures[0]}\nshrunken schedule:")
        print("\n".join(f"  {fault}," for fault in schedule))
    for result in tally.failed:
        print(f"seed {result.seed}: {result.failures[0]}")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
