"""Commands on keys and values.

- `strings` (GET, SET, MGET, MSET and the like), `keyspace` (EXISTS, DEL and the like), `expiry`, `scan`,
  `all_keys` (KEYS, FLUSHDB), `milena_all` (those of all nodes), `refresh`.
- `execution`: transactions, here or at another node; `scripting`: EVAL and the like.
- `reading`, `writing`: shared by commands on many keys; `set_options`, `timestamps`: arguments of several commands.

A command on many keys resolves all of them before it does anything, so that it is rejected as a whole if a key is
not this node's. It works in parts, between which the event loop runs other work.
"""
