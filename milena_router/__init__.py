"""The router: maintains the ring of cache nodes, limits the request rate, and forwards requests to key owners.

- `ring`: members, leases, recovery and publication of the ring; `forwarding`: requests to the owners of keys.
- `redis`, `s3`: servers of these protocols, which forward what they get.
- `service`: the gRPC methods; `config`: the environment; `metrics`: what `/metrics` exports.
- `command`: the console command; `__main__`: wires and runs the process.

A router keeps no state on disk: a starting one recovers the ring from the nodes, exactly.
"""

import milena_common  # noqa: F401  before any module that may be compiled: see milena_common.build
