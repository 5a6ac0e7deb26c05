"""Forwarding of requests to nodes.

- `forward`: a request to the owner of its key; `node_connection`: the connection to one node.
- `writeback`, `refresh`: requests to every node, whose replies are combined into one.

A read is repeated at most once; a write is never repeated if it may have happened.
"""
