"""Attacks on a pair while it changes: each combination of phase, moment and fault once, in an order that a seed gives."""
