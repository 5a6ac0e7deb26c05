"""Measures the disk cache of a node on the disk of the working directory; run by `bench.cases.disk_cache`."""
