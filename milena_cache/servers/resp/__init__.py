"""The server of the Redis protocol: RESP2 and RESP3, so that every Redis Cluster client is a client of the nodes.

- `server`: listens; `connection`: bytes in, replies out in order; `running`: commands that have begun.
- `output_buffer`, `in_flight`: what a connection may hold; `overwrites`: the fast path of SET; `invalidations`:
  pushes.
- `dispatch`: what a command is; `statistics`, `state`: what commands read and change; `commands`: the commands.
- `assembly`: wires all of it.

A hit is answered in the callback that received it. Replies come in the order of their commands.
"""
