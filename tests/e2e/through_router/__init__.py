"""The router's port of the Redis protocol, with real processes."""
