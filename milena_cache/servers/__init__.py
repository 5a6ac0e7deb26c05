"""Protocol servers of the node: `grpc` and `resp`, which know nothing of each other.

A server translates, and decides nothing: what a request may do and does is in `service.requests`. `api_methods`
reads and writes the protobuf messages, which both servers take.
"""
