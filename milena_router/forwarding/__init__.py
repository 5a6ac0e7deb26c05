"""Requests on their way to nodes.

- `forward`: a request to the owner of its key; `node_connection`: the connection to one node.
- `writeback`, `refresh`: requests to every node, whose replies become one.

A read is repeated once at most, a write never once it may have happened.
"""
