"""Commands about the server: INFO, CONFIG, COMMAND, CLUSTER, MEMORY, LATENCY, SLOWLOG, and MILENA.CALL.

- `info`, `info_sections`: INFO, and the fields of its sections; `config`: CONFIG; `command_docs`: COMMAND.
- `cluster`: the ring as Redis Cluster describes it; `memory`, `latency`, `slowlog`: diagnosis.
- `milena_call`: the node's API over RESP; `milena_listing`, `milena_promise`: requests of other nodes about
  listings, and to stand by a ring.
- `server`: TIME, ROLE, DEBUG SLEEP, and commands without effect.

They report the node's state under the names that Redis's clients and monitoring tools read. Values of features that
Milena does not have are those of a Redis that does not use them.
"""
