"""The orders in which entries are evicted from memory, by EVICTION_POLICY."""
