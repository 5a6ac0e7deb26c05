"""The server of the Redis protocol: RESP2 and RESP3, so that every Redis Cluster client is a client of the nodes.

- `server`: listens; `connection`: bytes in, replies out in order; `running`: commands that have begun.
- `output_buffer`: bounds of a connection's unsent replies; `unknown_command`: the reply to commands that do not
  exist or were not read; `invalidations`: pushes to clients that track keys.
- `dispatch`: the parts of a command; `statistics`, `state`: shared by all commands; `commands`: the commands;
  `scripts`: the sandbox of EVAL.
- `assembly`: wires all of it.

Invariants: a hit is replied to in the callback that received it, without a task or an await. Replies come in the
order of their commands, and commands take effect in that order.
"""
