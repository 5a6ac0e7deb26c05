"""Addresses, and sockets that listen on them.

- `addresses`: parses `host:port` in all its customary forms, and prints it in one.
- `listening`: binds a port in the same way for gRPC, RESP and HTTP; `spare_listener`: accepts connections while no
  descriptors are free.
"""
