"""Options, output and failures, shared by all commands.

- `session`: the options that name the cluster and the form of output; `reporting`: a transport that reports waits.
- `output`: tables and JSON; `failures`: messages and exit codes.
"""
