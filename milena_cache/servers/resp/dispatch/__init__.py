"""The description of a command, and what is decided before it runs.

- `command`: name, arity, keys, handler; `command_table`: the decorator that describes one.
- `subcommands`: of CLIENT, CONFIG and the like; `session`: the state of one connection.
- `admission`: commands that are rejected before anything is done.
- `glob`: patterns as Redis has them.

Nothing here depends on a particular command: decisions follow from the fields of `Command`.
"""
