"""A whole cluster on this machine: the commands `milena up` and `milena demo`.

- `up`: `milena up`; `demo`: `milena demo`; `demo_tour`: its measured steps; `demo_data`: the files that it reads.
- `cluster`, `s3`: router, nodes and moto's S3 server as child processes.
- `processes`, `child`: start and end child processes; `ports`: reserves their ports.

Invariant: a child process ends when its parent does, even if that is killed (Linux).
"""
