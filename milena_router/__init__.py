"""The router: maintains the ring of cache nodes, limits the request rate, and forwards requests to key owners.

- `ring`: members, leases, recovery and publication of the ring; `forwarding`: requests to the owners of keys.
- `service`: the gRPC methods; `config`: the environment; `metrics`: what `/metrics` exports.
- `command`: the console command; `__main__`: wires and runs the process.

A router keeps no state on disk: a starting one recovers the ring from the nodes, exactly.
"""
