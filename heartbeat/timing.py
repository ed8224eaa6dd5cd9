"""The times of a pair, as heartbeat's rules know them; they live in runtime because ``ha start`` checks them too."""

from runtime.timing import PROFILES, Timing, check, scaled

__all__ = ["PROFILES", "Timing", "check", "scaled"]
