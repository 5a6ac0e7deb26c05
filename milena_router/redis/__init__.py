"""The router's port of the Redis protocol: clients see one standalone server, whatever the ring is.

- `server`: listens, and sweeps; `connection`: one client: commands in, replies out in order; `session`: its state.
- `routing`: the keys of a command, how it is split by owner, and how the replies are merged.
- `local_commands`: the commands that the router replies to itself; `api_calls`: methods of the API.
- `permissions`: what a user may do, checked here once.
- `pending`: a command whose reply is due; `upstream`: the connections to the nodes, which all clients share.

Invariants: replies come in the order of their commands, and commands on one key take effect in it. A read is
repeated once when its node is lost; a write is never repeated if it may have been done.
"""
