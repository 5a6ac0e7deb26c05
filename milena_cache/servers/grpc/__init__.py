"""The node's gRPC API: `methods` has them all, and `budgeted_get` puts replies of Get into the budget of bytes in
flight."""
