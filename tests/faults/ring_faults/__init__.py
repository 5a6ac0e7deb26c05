"""Faults of a ring of real processes: ``python -m tests.faults.ring_faults --minutes 20``.

- `network`: proxies between the processes, which can disconnect two of them, in one direction or both.
- `proxied_node`, `system`: four nodes and a router that reach each other through these proxies.
- `faults`: what is done to the ring; `load`: clients meanwhile.
- `availability`, `counters`: what is measured and checked besides the histories of `tests.faults.harness`.
- `run`: rounds of load with one fault each.
"""
