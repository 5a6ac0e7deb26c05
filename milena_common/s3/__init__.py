"""The S3 protocol as a server speaks it: what nodes, and any other process of the cluster, need for an S3 endpoint.

- `http_server`: HTTP/1.1 connections; `endpoint`: what is done for a request, `multipart` and
  `copying`: for those on uploads and copies; `replies`; `settings`: its variables; `counts`, `metrics`.
- `callers`, over `signing`: who has sent it, and may they.
- `body`: its body, verified.
- `wire`: the forms of requests and replies; `listing`: those of listings.
- `objects`: the seam to what has the objects. It is implemented where the endpoint runs.

Invariant: nothing of a body reaches an object, or a part of one, before all of it has come, and its signature,
length and checksums are verified. What is passed on to S3 before that is dropped there, since its end is missing.
"""
