"""Jobs of operators on all objects below a prefix, done in parts that a caller requests one after the other.

- `sweep`: what one job does to the entries of a node; `sweeps`: the jobs of a node, each at its place.
- `warming`: reads objects into memory, as far as they fit without evicting anything.

Invariants: nothing of a job runs while no caller waits for a part of it, but reads of S3 that a part has begun; no
part holds up the event loop for more than about 2 ms at a time; dirty entries are left as they are.
"""
