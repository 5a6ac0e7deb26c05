"""Ratios of hits of the eviction policies on public traces: ``python -m bench.traces``."""
