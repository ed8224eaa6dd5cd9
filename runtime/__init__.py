"""What every process here needs and none of them decides: life cycle, sockets, XML, addresses, commands, sessions.

Nothing in this package knows about roles (design §1); import-linter holds it to that.
"""
