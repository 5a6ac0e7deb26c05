"""The cases, by subject.

- `reads`, `clients`: hits and misses through the router, and straight to a node.
- `writes`, `writeback`: acknowledged writes, and their uploads; `resp_server`: a node's RESP server against Redis.
- `workers`: several workers of one machine against one process.
- `files`: what libraries read as files, and batches of small objects.
- `large_objects`: reads of large objects, cold, at random places, and from memory.
- `copies`: acknowledged writes of a ring of three nodes, with and without copies at another node.
- `growth`: cost and memory by the number of cached objects.

Each module defines `CASES`.
"""
