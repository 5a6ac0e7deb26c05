"""Pure. Which bucket and prefix the writes of a journal are for, as its metadata says it.

The version before reads records of format 1 only, quarantines all others, and knows no tombstones. It checks one
thing that this version can change: it rejects a journal that has records for another origin than its own. So this
version marks the origin. With records the version before then does not start, and prints the whole text; without
any it starts, and replaces the text by its own.

A version without copies of other nodes' writes would upload them as its own. It checks the same, so a journal that
has copies is marked once more.
"""

from __future__ import annotations

from milena_cache.journal.disk import Disk

# The key in the journal's metadata.
NAME = "origin"
# Part of the message of the version before: "has writes for s3://bucket/prefix, …".
_MARK = ", written by a later version of Milena, which must upload them and be stopped with exit code 0 first"
_COPIES_MARK = (
    ", and copies of the writes of other nodes, made by a later version of Milena, which drops them when the other "
    "nodes do not need them any more"
)


def to_text(origin: str, *, copies: bool = False) -> str:
    """Return the metadata for writes that are for `origin`; `copies`: there may be copies of others' writes."""
    return origin + (_COPIES_MARK if copies else _MARK)


def from_text(text: str) -> str:
    """Return the origin that `to_text`, or a version before, wrote; "" for ""."""
    return text.removesuffix(_MARK).removesuffix(_COPIES_MARK)


def has_copies(text: str) -> bool:
    """Return True if `text` says that there may be copies of other nodes' writes."""
    return text.endswith(_COPIES_MARK)


def mark(disk: Disk, *, copies: bool) -> None:
    """Say in the metadata of `disk` whether there may be copies; in an open transaction."""
    text = disk.metadata().get(NAME, "")
    if has_copies(text) is not copies:
        disk.set_metadata(NAME, to_text(from_text(text), copies=copies))
