"""Several nodes on one machine, one for each core, started and watched by one parent process (WORKERS).

- `plan`: what each worker gets: ports, journal directory and shares of the limits, as variables.
- `restarts`: when a worker that has ended is started again, and the parent's exit code.
- `left_journals`: refuses to start beside the journal of a worker that is not started.
- `merged_metrics`: one text of the metrics of all workers.
- `supervisor`: the parent process. A child process begins in `milena_cache/worker.py`.

A worker is a whole node and a member of the ring: nothing is shared between workers, and clients find the worker of
a key by its slot, as they find a node of another machine.
"""
