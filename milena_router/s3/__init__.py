"""The router's S3 endpoint: a request goes to the owner of its key as it came, and its reply comes back as it is.

- `endpoint`: which node gets a request, and what is repeated; `nodes`: the nodes of the ring that have an endpoint.
- `node_http`: one request over a connection to a node.

The server of HTTP, the operations and the errors are those of nodes (`milena_common.s3`). Nodes verify signatures,
so a router has no access keys. Invariant: a write is sent again only if it is certain that nothing was done.
"""
