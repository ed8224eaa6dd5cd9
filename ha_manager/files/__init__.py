"""Replicated files: what ``files_to_replicate`` of module.xml names is on the passive, and in place after a failover.

A process of its own on each server, started and watched by ha_manager (``ha_manager.copier``): hashing, walking trees and
reading thousands of events hold Python's interpreter lock, and ha_manager owes heartbeat a report every few tens of
milliseconds. The two share no thread and no lock; if this one hangs or dies, nobody's role hangs on it.

    active                                                     passive
    watching ─► changes ─► sender ──── session, port 4589 ───► receiver ─► staging        small files: at once
                        └► bulk ────── rsync over OpenSSH ───► gate ─────► staging        trees, large files, full passes
                                                               placing ◄── staging        on becoming active
"""
