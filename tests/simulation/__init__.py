"""Both nodes of the pair under seeded faults: the production ``Core`` in a world made of a virtual clock, disks, links and a
Postgres.

Promise: the same seed and the same schedule give the same run, to the last message; what is checked is said in ``checks``.
Source: design §4, facts/safety-model.md. Replay one run with ``python -m tests.simulation --seed N``.
"""
