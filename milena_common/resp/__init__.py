"""The Redis protocol (RESP2 and RESP3): sans-I/O coding, and one asyncio connection.

- `encoding`, `parser`, `plain_commands`: replies to bytes, and bytes to commands, for a server.
- `client_commands`: commands to bytes, and Milena's own replies, for a client; `errors`: errors as error lines.
- `command_ordering`, `in_flight`: which commands of a connection may be in flight together, and their bytes.
- `redis_replies`: errors in the words of Redis.
- `identity`: the cluster and node that a connection is meant for.
- `stream`: one connection as fast as asyncio allows; `link`: a node, with reconnects.

Nothing is allocated for bytes that were announced and not received.
"""
