"""Reads as files: `file_reads`, of libraries, and batches; `large_reads`, of one large object."""
