"""The path of a put or delete until it is acknowledged, by durability class.

- `writer`: the entry point; it orders the writes of a key, checks conditions and chooses the class.
- `journaled`: classes `back` and `memory`, which make a dirty entry; `write_through`: class `through`.
- `upload_sessions`: objects of any size, which are sent in steps; `multipart`: one of them that is stored in parts.
- `client_uploads`: multipart uploads that callers make themselves; `assembly`: the last step of both.
- `durable`: the seam to what makes a write of class `back` durable before it is acknowledged.
- `ownership_revalidation`: decides with S3 whether a dirty write of an earlier ownership may still be served.

Invariant: a failed write never undoes an acknowledged one.
"""
