"""Where a node replies something else than Redis does, and why. docs/protocol.md has the same reasons.

Every difference that the cases show is here, and nothing that is not one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.e2e.redis.cases import GET_OF_TOO_LONG, NO_UTF8, SET_OF_TOO_LONG

OBJECT_KEYS: Final = "keys are those of S3"
HELD: Final = "`DBSIZE` and `RANDOMKEY` concern this node's memory"
CURSORS: Final = "`SCAN` rejects an unknown cursor"
UTF8: Final = "errors are UTF-8"
FAR: Final = "the latest possible expiry is in the year 33658"
HELP: Final = "`HELP` lists the existing subcommands"
NAMES_LIMIT: Final = "the error for a value that is too long names the limit"
NO_REFERENCES: Final = "there is no `OBJECT REFCOUNT`"
ABSENT_COMMANDS: Final = "commands that are not listed do not exist"


class Difference(NamedTuple):
    """`ours`: how the node's reply begins. `may_agree`: Redis may happen to reply the same."""

    reason: str
    ours: bytes
    may_agree: bool = False


_EMPTY = Difference(OBJECT_KEYS, b"-ERR key: is empty; allowed are 1 to 1024 bytes of UTF-8\r\n")
_NUL = Difference(OBJECT_KEYS, b"-ERR key: has a NUL at byte 1; NUL is not allowed\r\n")
_NOT_UTF8 = Difference(OBJECT_KEYS, b"-ERR key: is not UTF-8 at byte 0; keys are UTF-8\r\n")
_TOO_LONG = Difference(OBJECT_KEYS, b"-ERR key: has ")

# By case and step.
DIFFERENCES: dict[tuple[str, str], Difference] = {
    ("keys that no object has", 'GET ""'): _EMPTY,
    ("keys that no object has", 'SET "" v'): _EMPTY,
    ("keys that no object has", r'GET "a\x00b"'): _NUL,
    ("keys that no object has", r'SET "a\x00b" v'): _NUL,
    ("keys that no object has", r'GET "\xff"'): _NOT_UTF8,
    ("keys that no object has", r'SET "\xff" v'): _NOT_UTF8,
    ("keys that no object has", r'EXISTS "\xff"'): _NOT_UTF8,
    ("keys that no object has", r'DEL "\xff"'): _NOT_UTF8,
    ("keys that no object has", GET_OF_TOO_LONG): _TOO_LONG,
    ("keys that no object has", SET_OF_TOO_LONG): _TOO_LONG,
    ("how many keys", "DBSIZE"): Difference(HELD, b":", may_agree=True),
    ("some key", "RANDOMKEY"): Difference(HELD, b"$", may_agree=True),
    ("cursors", "SCAN 18446744073709551615"): Difference(CURSORS, b"-ERR invalid cursor: "),
    ("unknown commands", NO_UTF8): Difference(UTF8, b"-ERR unknown command 'NoSuch', with args"),
    ("far ends", "PEXPIRETIME <l>"): Difference(FAR, b":999999999999999\r\n"),
    ("no protocol: a length that is too large", "*1\r\n$536870913\r\n"): Difference(
        NAMES_LIMIT, b"-ERR Protocol error: invalid bulk length 536870913, over MAX_VALUE_BYTES\r\n"
    ),
    ("object", "OBJECT HELP"): Difference(HELP, b"*"),
    ("object", "OBJECT REFCOUNT <k>"): Difference(
        NO_REFERENCES, b"-ERR unknown subcommand 'REFCOUNT'. Try OBJECT HELP.\r\n"
    ),
}
