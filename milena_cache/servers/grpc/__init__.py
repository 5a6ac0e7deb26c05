"""The node's API over gRPC: `methods` is what the server calls, and `budgeted_get` puts responses of Get into the
budget of bytes in flight."""
