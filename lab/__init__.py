"""Machines on this machine: namespaces over an overlay of its root, with cables that can be cut and power that can fail.

``lab.api.Lab`` is the way in for programs, ``python -m lab`` for people. Source: design §2.
"""
