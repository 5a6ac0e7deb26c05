"""What a command is, and what is decided before it runs.

- `command`: name, arity, keys, handler; `subcommands`: containers such as CLIENT; `session`: the connection's
  settings.
- `admission`: commands that are rejected before anything is done; `command_ordering`: which may run together.
- `glob`: patterns as Redis has them.
"""
