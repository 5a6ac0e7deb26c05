"""Protocol servers of the node: `grpc` and `resp`. A server translates, and decides nothing."""
