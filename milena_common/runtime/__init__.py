"""What asynchronous and threaded code runs on: time, order, and what a process must not share.

- `clock`, `blocking_clock`: time as a Protocol, for coroutines and threads; `deadlines`, `backoff`: how it is
  divided.
- `key_locks`: one holder at a time for each key, in order; `log_limiter`: a bound on repeated log lines.
- `event_loops`, `forks`, `patched`: the event loop, process and sockets that a client belongs to.

Tests pass a clock in and never sleep.
"""
