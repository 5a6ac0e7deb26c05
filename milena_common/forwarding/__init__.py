"""Commands on keys that other processes own: sent there over connections that all clients share.

The router's Redis port forwards every command on keys, a node those on keys of other nodes.

- `routing`: which commands are forwarded, how they are split by key, and how the replies are merged.
- `call`: one request without a connection; `transactions`: a queue of commands as one; `scripts`: EVALSHA as EVAL.
- `pending`: a command whose reply is due; `topology`: what must be known of the ring to send it.
- `node_stream`: one connection to a node; `upstreams`: the connections to all nodes.

Invariants: a write is never sent twice if it may have been done, and a read once more at most. What waits is
bounded by its clients, and every command has its reply or an error within the time that a command has.
"""
