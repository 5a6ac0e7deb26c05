"""What the commands of all connections of a server work with.

- `context`: the node's parts, and the way from a key to its object.
- `client_registry`, `tracking`, `cursors`, `ring_view`: connections, who has read which key, scans, the ring.
- `plain_gets`: the fast path of GET; `pending_replies`: commands that wait for their reply.
- `loop_share`, `overload`: turns of the event loop, and what is rejected when it cannot keep up.
"""
