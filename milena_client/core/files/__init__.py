"""Objects as files, without I/O.

- `read_ahead`: what a reader requests; `block_read`: of which of it the node that keeps the bytes may be asked.
- `upload_steps`: what a writer sends.
"""
