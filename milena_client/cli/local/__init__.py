"""A whole cluster on this machine: `milena up` and `milena demo`.

- `up`, `demo`, `demo_tour`, `demo_data`: the commands.
- `cluster`, `s3`: router, nodes and moto's S3 as child processes; `processes`, `child`, `ports`: how those start
  and end.

A child ends when its parent does, however that ends.
"""
