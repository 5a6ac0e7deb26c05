"""Nodes in states that are slow to reach otherwise, and access to one.

- `node_parts`: a node without servers; `cached_objects`: one with many objects in memory.
- `backlog`: a journal with many writes; `grpc_client`: a bare client of a node's gRPC server.
"""
