"""Makes the role that heartbeat decided so: Postgres, replicated files, hooks, and the commands of operators (design §6)."""

__version__ = "0.1.0"
