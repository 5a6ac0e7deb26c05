"""The command `milena journal`: reads a journal, also while a node runs on it. Only `adopt` changes anything.

- `command`: its arguments and exit codes; `inspect`: `inspect` and `verify`; `export`: `export`; `found`: how a
  record is shown.
"""
