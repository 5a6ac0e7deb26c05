"""What bounds a process: bytes in flight, requests a second, memory, open files.

- `byte_budget`: the process's budget of bytes in flight; `call_bytes`: the part that one call has taken.
- `token_bucket`: RATE_LIMIT; `open_files`: the limit of descriptors.
- `memory_limit`: the container's limit; `memory_shares`: how it is divided where the operator does not say.

Bytes are taken from the budget before they are read, and are always returned.
"""
