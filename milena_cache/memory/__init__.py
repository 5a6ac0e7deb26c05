"""What the node keeps of S3's objects in memory.

- `lru`: entries, bounded in number and bytes; `freshness`: what an entry's age allows.
- `single_flight`: one read of S3 for each key, shared by all who wait; `existence`: the same for HEAD requests.
- `entries`: both together: what a write or a change of the ring does to entries and to reads in flight.
- `change_feed`: announces each key whose readers may see something else.

A read that began before a write of its key is neither kept nor joined after it.
"""
