"""`milena journal`: reads a journal, beside a running node too, and changes nothing unless it is told to adopt it.

- `command`: its arguments; `inspect`, `export`: its work; `found`: how a record is shown.
"""
