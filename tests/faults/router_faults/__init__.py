"""Faults of several routers and of their etcd, as real processes under load."""
