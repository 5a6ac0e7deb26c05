"""Libraries that people read and write objects with, through the cluster: fsspec and what builds on it."""
