"""The decisions of both clients, without I/O: the time and the result of each attempt are arguments.

- `operations`, `admin`: each operation as a value; `calls`: the course of one call; `batch`: of many at once.
- `retry`, `rate_limit_queue`, `limits`: when a call is tried again, how calls share a rate limit, and the bounds.
- `cached_results`: keys, bytes and shared computations of `@cached`.
- `routing`: from a key to its owner; `near_cache`, `invalidations`: values kept in the process.
- `files`: what readers and writers of objects as files request and send.
- `url`, `values`, `options`: what users pass in and get back.

A write is never repeated once it may have taken effect. A value of the near cache is returned only while every node
that would report its change is known to be there.
"""
