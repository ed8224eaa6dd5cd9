"""Makes the role that heartbeat decided so: Postgres, replicated files, hooks, and the commands of operators (design §6)."""
