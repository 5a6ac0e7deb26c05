"""Measuring processes, and programs that are run by themselves.

- `sync_reads`, `async_reads`, `async_writes`, `router_reads`: clients of a cluster.
- `policy_reads`, `policy_writes`, `drain`, `replayed`: a node's parts in this process.
- `hit_cost`: the processor time of a server; `raw_puts`: puts of large values by bare protocols.
- `files`: reads of files, batches and large objects; `s3`: of the S3 endpoint.
- Run by themselves: `memory_bursts`, `shipped_limits`, `overload`, `ring_changes`.
"""
