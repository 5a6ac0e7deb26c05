"""Addresses, and sockets that listen on them.

- `addresses`: parses and prints `host:port` in every form that people write.
- `listening`: binds a port in the same way for gRPC, RESP and HTTP; `spare_listener`: accepts without free
  descriptors.
"""
