"""Commands about the server: INFO, CONFIG, COMMAND, CLUSTER, MEMORY, LATENCY, SLOWLOG, and MILENA.CALL.

They report the node's state under the names that Redis's clients and monitoring tools read. Values of features that
Milena does not have are those of a Redis that does not use them.
"""
