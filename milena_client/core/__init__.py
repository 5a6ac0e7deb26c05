"""What both clients decide, without I/O.

- `operations`: each operation as a value; `calls`: deadlines and retries; `batch`: many operations in a window.
- `retry`, `rate_limit_queue`: when a call is tried again, and how calls share a rate limit.
- `routing`: from a key to its owner; `near_cache`, `invalidations`: values kept in the process.
- `url`, `values`, `options`: what users pass in and get back.

A write is never repeated once it may have happened.
"""
