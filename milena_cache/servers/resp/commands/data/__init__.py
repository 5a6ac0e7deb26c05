"""Commands on keys and values.

- `strings` (GET, SET, MGET, MSET and kin), `keyspace` (EXISTS, DEL and kin), `expiry`, `scan`, `refresh`.
- `reading`, `writing`: what commands of many keys share; `set_options`, `timestamps`: arguments of several
  commands.
"""
