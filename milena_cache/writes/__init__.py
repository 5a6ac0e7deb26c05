"""What a put or delete does until it is acknowledged, by durability class.

- `writer`: decides; `journaled`: `back` and `memory`, a dirty entry by way of the journal; `write_through`:
  `through`.
- `ownership_revalidation`: whether a dirty write of an earlier ownership may still be served.

A write that failed never undoes one that was acknowledged.
"""
