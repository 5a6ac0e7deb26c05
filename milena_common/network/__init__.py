"""Addresses, connections to them, and sockets that listen on them.

- `addresses`: parses `host:port` in all its customary forms, and prints it in one.
- `stream`: a blocking connection as the client for threads needs it; `connecting`: opens connections, for threads
  and for event loops.
- `encrypted`, `tls_stream`: the same with TLS, for event loops and for threads; `security`: what they need of it.
- `listening`: binds a port in the same way for gRPC, RESP and HTTP; `spare_listener`: accepts connections while no
  descriptors are free.

No other folder opens a connection, except that gRPC opens its own (`milena_common.rpc.opening`).
"""
