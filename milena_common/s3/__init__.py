"""The S3 protocol as a server speaks it: what nodes, and any other process of the cluster, need for an S3 endpoint.

- `http_server`: HTTP/1.1 connections; `endpoint`: what is done for a request; `settings`: its variables.
- `identities`, `keys_file`, `signatures`: who has sent it.
- `received`, `aws_chunked`, `checksums`: its body, verified.
- `wire`: the forms of requests and replies; `listing`: those of listings.
- `objects`: the seam to what has the objects. It is implemented where the endpoint runs.

Invariant: nothing of a body reaches an object before all of it has come, and its signature, length and checksums
are verified.
"""
