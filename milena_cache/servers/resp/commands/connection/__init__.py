"""Commands about the client's own connection.

- `handshake` (HELLO, AUTH, PING and kin), `milena_hello`, `client`, `client_list`, `client_kill`.
- `client_tracking`, `subscriptions`: invalidation messages; `transactions`: rejected, and safely so.
"""
