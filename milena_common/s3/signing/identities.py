"""Pure. S3_KEYS_FILE: the access keys of an S3 endpoint, with their secrets, and whose they are.

A signature of S3 is verified with the secret itself, and the file of users (ACL_FILE) has only hashes of passwords.
So the secrets are in a file of their own: a line for each key, `ACCESS_KEY SECRET [USER]`. Without a user the
access key is the user's name. A user may have several keys, so that they can be replaced one by one. Lines that are
empty or begin with # are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from milena_common.api.errors import ConfigError

MAX_BYTES: Final = 2**20
MIN_SECRET: Final = 16
MAX_SECRET: Final = 256
_ACCESS_KEY: Final = re.compile(r"[A-Za-z0-9_.@+=-]{3,128}")
_SECRET: Final = re.compile(rf"[\x21-\x7e]{{{MIN_SECRET},{MAX_SECRET}}}")
_ALLOWED: Final = (
    f"lines of ACCESS_KEY SECRET [USER]: 3 to 128 of A-Z a-z 0-9 _ . @ + = -, {MIN_SECRET} to {MAX_SECRET} visible "
    "ASCII characters, and a user of ACL_FILE"
)


class AccessKey(NamedTuple):
    """An access key. `user`: whose it is."""

    name: str
    secret: str
    user: str

    def __repr__(self) -> str:
        return f"AccessKey({self.name!r}, user={self.user!r})"


def parse_keys(content: bytes) -> Mapping[str, AccessKey]:
    """Return the access keys by name. Raises ConfigError with every wrong line, without its secret."""
    if len(content) > MAX_BYTES:
        raise ConfigError([f"S3_KEYS_FILE: has more than {MAX_BYTES} bytes"])
    keys: dict[str, AccessKey] = {}
    problems = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) not in (2, 3) or not _ACCESS_KEY.fullmatch(fields[0]) or not _SECRET.fullmatch(fields[1]):
            problems.append(f"S3_KEYS_FILE: line {number} is not shown here; allowed: {_ALLOWED}")
        elif fields[0] in keys:
            problems.append(f"S3_KEYS_FILE: line {number}: the access key {fields[0]!r} is there already")
        else:
            keys[fields[0]] = AccessKey(fields[0], fields[1], fields[2] if len(fields) == 3 else fields[0])
    if not keys and not problems:
        problems.append(f"S3_KEYS_FILE: has no access key; allowed: {_ALLOWED}")
    if problems:
        raise ConfigError(problems)
    return keys
