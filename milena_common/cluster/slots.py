"""Pure. The slot of a cache key: Redis Cluster's function, so that its clients find the owner by themselves.

CRC16 (XMODEM: polynomial 0x1021, start 0), modulo 16384. If the key holds ``{…}`` with something between the
first ``{`` and the first ``}`` after it, only that is hashed, so that applications can keep keys together.
Source: the Redis Cluster specification, "Key distribution model" and "Hash tags". `binascii.crc_hqx` is that
CRC16: it gives 0x31C3 for ``123456789``, the specification's check value.
"""

from __future__ import annotations

from binascii import crc_hqx

SLOTS = 16384


def slot_of(cache_key: bytes) -> int:
    """Return the slot, 0 to 16383, of `cache_key`."""
    start = cache_key.find(b"{")
    if start >= 0:
        end = cache_key.find(b"}", start + 1)
        if end > start + 1:
            cache_key = cache_key[start + 1 : end]
    return crc_hqx(cache_key, 0) & (SLOTS - 1)


def group_slot(cache_key: bytes, etag: str, group: int) -> int:
    """Return the slot of a group of blocks of one version of a large object, the `group`-th from 0 on.

    Hash tags in the key do not count: they would put all groups into one slot.
    """
    return crc_hqx(b"%b\0%b\0%d" % (cache_key, etag.encode(), group), 0) & (SLOTS - 1)
