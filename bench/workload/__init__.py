"""Load for all cases: `load` runs callers and records latencies, `hot_keys` and `new_objects` are their objects."""
