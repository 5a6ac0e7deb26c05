"""TLS of the connections between clients, routers and nodes: settings, certificates that are replaced while a
process runs, and what a failed handshake means.

- `settings`: the files and rules of one process or client, and `variables` those of a process's environment.
- `material`: reads the files and makes TLS contexts of them; `validity`: from when to when a certificate is valid.
- `certificates`: the newest valid content of the files, for new connections.
- `chain`: the authority on which a client's certificate rests, by which open connections are ended.
- `peer`: the names in the certificate of a connection's other side.
- `failures`: the reasons of failed handshakes, as error texts and as labels of a metric.

Connections are opened and accepted by `milena_common.network` and `milena_common.rpc`, with what is made here.
"""
