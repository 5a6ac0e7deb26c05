"""Large objects in blocks: the parts of an object above BLOCK_THRESHOLD that were read, in the memory of all nodes.

- `layout`: which blocks a range touches, and which node of the ring is to keep them.
- `block_memory`: the blocks in the memory of one node.
- `block_reads`: reads of blocks from memory or S3 by one node; `cluster_blocks`: by the nodes of the ring.

A block is filed under the object's cache key, ETag and size, so that it never changes, and is never stale. Which
version of the object is current is decided by the owner of its key (`milena_cache.reads.part_reads`), and so is
whether it exists, has expired, or has a newer write that S3 does not have yet.

Invariant: all bytes of one read are of one version. Each request to S3 has the ETag as its condition, and the ETag
and size of each response are compared with it.
"""
