"""Pure. The path of an object, ``milena://BUCKET/KEY`` or ``BUCKET/KEY``, as libraries that know files name it.

The router is no part of it: a path names the same object whatever cluster it is read from.
"""

from __future__ import annotations

from typing import NamedTuple

from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import DEFAULT_BUCKET, check_bucket

SCHEME = "milena://"


class ObjectPath(NamedTuple):
    """An object, or the objects below it.

    bucket: its name; "default" is the one that the nodes serve by default
    key: the key; "" is the bucket itself
    """

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    @property
    def below(self) -> str:
        """The prefix of the keys below this one, as of the files in a folder."""
        return f"{self.key}/" if self.key else ""


def strip_scheme(path: str) -> str:
    """Return `path` without scheme, and without slashes at its ends."""
    return path.removeprefix(SCHEME).strip("/")


def parse_path(path: str) -> ObjectPath:
    """Return the object that `path` names. Raises InvalidRequest, a ValueError, for a path without a bucket."""
    bucket, _, key = strip_scheme(path).partition("/")
    if bucket != DEFAULT_BUCKET:
        try:
            check_bucket(bucket)
        except InvalidRequest as error:
            raise InvalidRequest(
                f"path: {path!r} is not {SCHEME}BUCKET/KEY; the router is no part of it, but MILENA_URL or the "
                f"option router. {error}"
            ) from None
    return ObjectPath(bucket, key)
