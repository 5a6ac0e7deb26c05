"""Pure. The file of users (ACL_FILE): one `user` line for each, in Redis's syntax; a file is taken whole or not.

Lines that begin with `#`, and empty ones, are comments. A file without a `default` user has none: unlike at Redis,
every connection has to authenticate then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from milena_common.access.rules import RuleError, User, parse_user
from milena_common.api.errors import ConfigError

DEFAULT: Final = "default"
MAX_BYTES: Final = 2**20
MAX_USERS: Final = 10_000
MAX_PROBLEMS: Final = 50

# The table without a file: anyone may do everything.
OPEN: Final[Mapping[str, User]] = {DEFAULT: parse_user(DEFAULT, ("on", "nopass", "~*", "&*", "+@all"))}


def parse_users(content: bytes, default_bucket: str = "") -> Mapping[str, User]:
    """Return the users by name. Raises ConfigError with a line for each wrong line of the file."""
    if len(content) > MAX_BYTES:
        raise ConfigError([f"ACL_FILE: has {len(content)} bytes; allowed: at most {MAX_BYTES}"])
    users: dict[str, User] = {}
    problems: list[str] = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            user = _user(raw, default_bucket)
            if user is None:
                continue
            if user.name in users:
                raise RuleError(f"user {user.name!r} is defined a second time")
            users[user.name] = user
        except RuleError as error:
            problems.append(f"ACL_FILE: line {number}: {error}")
    if len(users) > MAX_USERS:
        problems.append(f"ACL_FILE: has {len(users)} users; allowed: at most {MAX_USERS}")
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise ConfigError(
            problems[:MAX_PROBLEMS] + ([f"ACL_FILE: and {more} more wrong lines"] if more > 0 else [])
        )
    users.setdefault(DEFAULT, User(DEFAULT))
    return users


def _user(raw: bytes, default_bucket: str) -> User | None:
    """Return the user of a line, None for a comment. Raises RuleError, whose text has no password."""
    try:
        parts = raw.decode().split()
    except UnicodeDecodeError:
        raise RuleError("is not UTF-8") from None
    if not parts or parts[0].startswith("#"):
        return None
    if parts[0] != "user" or len(parts) < 2:
        raise RuleError("allowed is: user NAME [rule ...]")
    name, *rules = parts[1:]
    try:
        return parse_user(name, rules, default_bucket)
    except RuleError as error:
        raise RuleError(f"user {name!r}: {error}") from None
