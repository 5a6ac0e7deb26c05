"""The command line `milena`: objects, ring and nodes, write-back, and a whole cluster on one machine.

- `app`: the command group and its global options; `__main__`: its start.
- `commands`: the commands for a running cluster; `local`: `milena up` and `milena demo`.
- `terminal`: options, output and failures, shared by all commands.

Every command exits with 0 if it succeeded, and prints each error as a line on standard error.
"""
