"""The Redis protocol (RESP2 and RESP3): sans-I/O coding, and one asyncio connection.

- `encoding`, `parser`, `plain_commands`: replies to bytes, and bytes to commands, for a server.
- `client_commands`: commands to bytes, and Milena's own replies, for a client; `errors`: errors as error lines.
- `identity`: which node of which cluster a connection is for.
- `stream`: one connection as fast as asyncio allows; `link`: a node that is connected to again when it has to be.

Nothing is allocated for bytes that were only announced.
"""
