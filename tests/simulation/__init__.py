"""A deterministic simulation: routers, nodes, clients and S3 in one event loop with virtual time, with faults.

- `loop`, `network`, `machine`, `store`: virtual time and processes; connections; clocks and disks; S3.
- `router`, `node`, `client`: the product's own parts in these, and clients that record a history.
- `faults`: what happens when, from the seed; `cluster`: everything together, and what is done at the end.
- `run`: run one seed and judge it; `__main__`: many seeds: ``python -m tests.simulation --seeds 0:500``.

Invariants: one seed gives the same run, byte for byte, in every process (with the same PYTHONHASHSEED); no sockets,
files, threads or real time are used; nothing of the product is replaced, except at its seams.
"""
