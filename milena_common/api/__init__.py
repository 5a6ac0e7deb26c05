"""The vocabulary of the API that router, nodes and clients share. It imports nothing else of Milena.

- `errors`: every error, in one tree; `durability`: the durability classes and the conditions of a write.
- `keys`: the rules for keys and buckets, and the cache key of an object; `byte_range`: a part of an object;
  `object_path`: bucket and key as one path.
- `methods`: the table of the API's methods, from which servers, clients and the router take names and messages.
- `pb`: the protobuf messages, generated from `proto/` by `scripts/protos`.

Field numbers never change, and an error keeps its code word: both are wire formats.
"""
