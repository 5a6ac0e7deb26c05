"""The state that all connections of a RESP server share.

- `context`: the node's parts, and the resolution of a key to its object.
- `client_registry`, `tracking`, `cursors`, `ring_view`: connections, tracked keys, SCAN's cursors, the encoded
  ring.
- `plain_gets`, `plain_sets`: the fast paths of GET and SET; `pending_replies`: commands that wait for their reply.
- `loop_share`, `overload`: slices of the event loop, and rejection of what it cannot keep up with.

The state of a single connection is not here but in its `Session`, see `dispatch`.
"""
