"""Pure. Merges a page of S3's listing with the writes that S3 does not have yet.

A listing is a sequence of names in the order of their bytes: keys and, with a delimiter, common prefixes. Each page
of S3 covers the names behind the last one of the page before, up to its own last one; writes are listed in the page
that covers their name. So every name is returned once, whatever is uploaded between two pages.

A page that is over the limit because of its writes is cut. The next one requests the same page of S3 again, and
continues behind the last name that was returned: S3 has cursors for its own pages only.

The cursor for callers is S3's cursor of the page, and the last name before it.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from heapq import nsmallest
from typing import NamedTuple

from milena_cache.objects.object_store import Info, Page
from milena_common.api.errors import InvalidRequest

# Characters in a cursor: S3's own, and a key of 1024 bytes in base64.
MAX_CURSOR = 8192


class Position(NamedTuple):
    """Where a page begins.

    cursor: S3's cursor of the page; "" for its first one
    last: the last name of the page before; "" if there is none
    """

    cursor: str
    last: str

    def encode(self) -> str:
        """Return the cursor for callers."""
        return f"{urlsafe_b64encode(self.last.encode()).decode()}.{self.cursor}"


BEGINNING = Position("", "")


def decode_cursor(text: str) -> Position:
    """Return the position of a caller's cursor; "" is the beginning. Raises InvalidRequest."""
    if not text:
        return BEGINNING
    last, dot, cursor = text.partition(".")
    try:
        if not dot or len(text) > MAX_CURSOR:
            raise ValueError
        return Position(cursor, urlsafe_b64decode(last.encode("ascii")).decode())
    except ValueError:
        raise InvalidRequest(f"cursor: got {text[:80]!r}; allowed: one from the previous page, or none") from None


def name_of(key: str, prefix: str, delimiter: str) -> str:
    """Return the name under which a key is listed: its common prefix, or the key itself."""
    at = key.find(delimiter, len(prefix)) if delimiter else -1
    return key if at < 0 else key[: at + len(delimiter)]


def merge(
    listed: Page,
    deleted: frozenset[str],
    written: Mapping[str, Info | None],
    position: Position,
    limit: int,
    until: str | None = None,
) -> Page:
    """Return `listed` with what was written and without the `deleted` keys: at most `limit` names.

    `listed` is S3's page at `position`. `written` has the objects that S3 may not have by name; None for a common
    prefix. `until`: the last name up to which it is complete; None: it has all. The cursor of the page that is
    returned is encoded.
    """
    names: dict[str, Info | None] = {info.key: info for info in listed.objects}
    names.update(dict.fromkeys(listed.prefixes))
    end = max(names, default=position.last) if listed.cursor else None
    for key in deleted:
        del names[key]
    names.update(written)
    last = until if until is not None and (end is None or until < end) else end
    following = [name for name in names if name > position.last and (last is None or name <= last)]
    taken = nsmallest(limit, following) if len(following) > limit else sorted(following)
    if len(taken) < len(following):
        cursor = Position(position.cursor, taken[-1]).encode()
    elif last is not None and last != end:
        cursor = Position(position.cursor, last).encode()
    elif listed.cursor:
        cursor = Position(listed.cursor, max(end or "", position.last)).encode()
    else:
        cursor = ""
    objects = [info for name in taken if (info := names[name]) is not None]
    return Page(objects, cursor, [name for name in taken if names[name] is None])
