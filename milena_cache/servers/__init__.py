"""Protocol servers of the node: `grpc` and `resp`, which do not import each other.

A server translates requests and replies, and decides nothing: what a request may do and does is in
`service.requests`, so that an operation means the same over every protocol. A fast path in a server may only serve
what the policy would serve in the same way. `api_methods` reads and writes the protobuf messages that both servers
take.
"""
