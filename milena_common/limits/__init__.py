"""The limits of a process: bytes in flight, requests a second, memory, open files.

- `byte_budget`: the process's budget of bytes in flight; `call_bytes`: the part that one call holds.
- `token_bucket`: RATE_LIMIT; `open_files`: the limit of file descriptors.
- `memory_limit`: the container's limit; `memory_shares`: the default limits derived from it.

Bytes are taken from the budget before they are read, and are always released.
"""
