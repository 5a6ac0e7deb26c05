"""gRPC: the server, the channels, and the mapping of errors to statuses.

- `server`: binding, health, limits, and one wrapper around every method; `receive`: large requests within the
  budget of bytes in flight.
- `channel`: connections to a router, for threads and for an event loop; `transport`: the Protocols of both.
- `opening`: opens channels and ports, for all of Milena.
- `options`: settings of channels and servers, each with its reason; `status`: errors to statuses and back.

No method fails with the status UNKNOWN.
"""
