"""Commands on connections: their handshake, their settings, and the list of all of them.

- `handshake`: HELLO, AUTH, PING and the like; `acl`: ACL WHOAMI; `milena_hello`: the handshake of Milena's own
  connections.
- `client`, `client_list`, `client_kill`: CLIENT, its LIST and its KILL.
- `client_tracking`: invalidations; `subscriptions`, `publishing`: publish/subscribe; `replication`: WAIT.
- `transactions`: MULTI and EXEC, which carry out commands on data; `milena_exec`: those of other nodes' clients.

All but the last two change the session and no object. Those that change the form of replies wait for all before
them (`behind_all`).
"""
