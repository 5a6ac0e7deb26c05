"""The router's port of the Redis protocol: clients see one standalone server, whatever the ring is.

- `server`: listens, and sweeps; `connection`: one client: commands in, replies out in order; `session`: its state.
- `local_commands`: the commands that the router replies to itself, with what `context` has; `transactions`: MULTI,
  EXEC; `all_keys`: KEYS, SCAN; `api_calls`: methods of the API.
- `permissions`: what a user may do, checked here once.
- `topology`: the router's ring, for `milena_common.forwarding`, which sends the commands to the nodes.

Invariants: replies come in the order of their commands, and commands on one key take effect in it. A read is
repeated once when its node is lost; a write is never repeated if it may have been done.
"""
