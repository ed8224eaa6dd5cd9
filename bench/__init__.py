"""Measurements and the demo: what the pair does, seen by its clients.

Promise: every figure comes from a record that a client wrote while it happened, with the client's own time-outs beside it.
"""
