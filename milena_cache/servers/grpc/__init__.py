"""The node's API over gRPC.

- `methods`: the methods by name, for `milena_common.rpc.server`, which turns the MilenaErrors that they raise into
  statuses.
- `budgeted_get`: Get, with its responses counted in the process's budget of bytes in flight.
"""
