"""A client for etcd, as small as routers need it; `docs/cluster.md` says why it is Milena's own.

- `client`: calls with deadlines at one of several endpoints, with TLS and a password, and watches that end when
  they hang.
- `security`: the files and the password.

A transaction whose reply is lost may have been carried out: it is never sent twice, and the caller reads.
"""
