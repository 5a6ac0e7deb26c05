"""Pure. Which bucket and prefix the writes of a journal are for, as its metadata says it.

The version before reads records of format 1 only, quarantines all others, and knows no tombstones. It checks one
thing that this version can change: it rejects a journal that has records for another origin than its own. So this
version marks the origin. With records the version before then does not start, and prints the whole text; without
any it starts, and replaces the text by its own.
"""

from __future__ import annotations

# The key in the journal's metadata.
NAME = "origin"
# Part of the message of the version before: "has writes for s3://bucket/prefix, …".
_MARK = ", written by a later version of Milena, which must upload them and be stopped with exit code 0 first"


def to_text(origin: str) -> str:
    """Return the metadata for writes that are for `origin`."""
    return origin + _MARK


def from_text(text: str) -> str:
    """Return the origin that `to_text`, or the version before, wrote; "" for ""."""
    return text.removesuffix(_MARK)
