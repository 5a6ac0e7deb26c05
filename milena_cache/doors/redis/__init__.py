"""The Redis door: RESP2 and RESP3, so that every Redis Cluster client is a client of the nodes.

connection   bytes in, answers out, in order; who may wait for whom        door    listens, counts, sweeps
hits         GETs of what is in memory, many at once, never awaits          table   every command there is
context      what commands work with     session  what a connection has set     command  what a command is
"""
