"""The base of asynchronous and threaded code: time, order, and ownership by loop, process and sockets.

- `clock`, `blocking_clock`: time as a Protocol, for coroutines and threads; `deadlines`, `backoff`: its division
  among hops and attempts.
- `completion`: waits a bounded time for one future.
- `key_locks`: one holder at a time for each key, in FIFO order; `log_limiter`: a bound on repeated log lines.
- `event_loops`, `forks`, `patched`: the event loop, process and sockets that a client belongs to.

Time is an argument everywhere, so tests pass a fake clock and never sleep.
"""
