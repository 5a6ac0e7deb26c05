"""Pure. Replies in which servers of the Redis protocol use Redis's own words: errors, and what they are about."""

from __future__ import annotations

from typing import Final

# The version of Redis that is reported. Clients decide by it which commands they may use.
REDIS_VERSION: Final = "7.4.0"

SYNTAX: Final = "ERR syntax error"
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
NO_PASSWORD: Final = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
WRONG_USER: Final = "WRONGPASS invalid username-password pair or user is disabled."
LOGIN_FIRST: Final = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
    "<pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
)
# Bytes of the arguments of an unknown command that its error shows.
_MAX_SHOWN: Final = 128


class CommandError(Exception):
    """An error reply to a command. The text begins with the code word, as in `ERR syntax error`."""


def wrong_arity(name: str) -> CommandError:
    return CommandError(f"ERR wrong number of arguments for '{name}' command")


def unknown_command(argv: list[bytes]) -> CommandError:
    shown = ""
    for word in argv[1:]:
        if len(shown) >= _MAX_SHOWN:
            break
        shown += f"'{word[: _MAX_SHOWN - len(shown)].decode(errors='replace')}' "
    name = argv[0][:_MAX_SHOWN].decode(errors="replace")
    return CommandError(f"ERR unknown command '{name}', with args beginning with: {shown}")


def unknown_subcommand(parent: str, word: bytes) -> CommandError:
    shown = word[:_MAX_SHOWN].decode(errors="replace")
    return CommandError(f"ERR unknown subcommand '{shown}'. Try {parent.upper()} HELP.")


def wrong_form(parent: str, word: bytes) -> CommandError:
    """Return the error for wrong arguments of a subcommand that has more than one form."""
    shown = word[:_MAX_SHOWN].decode(errors="replace")
    return CommandError(
        f"ERR unknown subcommand or wrong number of arguments for '{shown}'. Try {parent.upper()} HELP."
    )


def integer(word: bytes, error: str = NOT_AN_INTEGER) -> int:
    """Parse a 64-bit integer as Redis does. Raises CommandError with the text `error`."""
    digits = word[1:] if word[:1] == b"-" else word
    if not digits.isdigit() or len(digits) > 19 or (digits[:1] == b"0" and word != b"0"):
        raise CommandError(error)
    value = int(word)
    if not -(2**63) <= value < 2**63:
        raise CommandError(error)
    return value


def printable(word: bytes, what: str) -> str:
    """Return a name that CLIENT LIST can show. Raises CommandError for spaces and control characters."""
    if any(not 0x21 <= byte <= 0x7E for byte in word):
        raise CommandError(f"ERR {what} cannot contain spaces, newlines or special characters.")
    return word.decode()
