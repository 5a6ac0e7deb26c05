"""Pure. Commands that are refused before anything of them is done, whatever they are."""

from __future__ import annotations

from typing import Any, Final

from milena_cache.servers.resp.dispatch.command import Command, CommandError
from milena_cache.servers.resp.dispatch.session import Session
from milena_common.api.errors import Overloaded

NO_TRANSACTIONS: Final = "transactions are not supported"

# These end the state in which the commands of a transaction are refused.
TRANSACTION_END: Final = frozenset(("exec", "discard", "reset", "quit"))

# How long a client should wait after a refusal for overload, in milliseconds.
RETRY_AFTER_MS: Final = 500

# Keys of one command: what is done with all of them at once takes some milliseconds.
MAX_KEYS: Final = 65_536


def check_keys(keys: list[bytes]) -> None:
    """Refuse a command with more than MAX_KEYS keys. Raises Refused."""
    if len(keys) > MAX_KEYS:
        raise CommandError(f"ERR the command has {len(keys)} keys; allowed are at most {MAX_KEYS}")


def check_transaction(session: Session, command: Command[Any]) -> None:
    """Refuse a command between MULTI and EXEC or DISCARD. Raises Refused."""
    if command.name not in TRANSACTION_END:
        session.transaction_rejected = True
        raise CommandError(
            f"ERR {NO_TRANSACTIONS}: every command from MULTI to EXEC or DISCARD is refused; nothing was done"
        )


def check_deadline(command: Command[Any], waited: float, timeout: float) -> None:
    """Refuse a command on keys whose bytes arrived more than `timeout` seconds ago.

    `waited` is the age of its bytes in seconds. Commands without keys cost next to nothing, and others depend on
    them: after a MULTI that was refused for its age, what follows would be carried out. Raises Overloaded.
    """
    if waited > timeout and command.keys[0]:
        raise Overloaded(
            f"retry-after-ms={RETRY_AFTER_MS} the command waited for {waited:.1f} s, REQUEST_TIMEOUT_SECONDS is "
            f"{timeout:g}; nothing was done"
        )


def no_room(used: int, limit: int, seconds: float) -> Overloaded:
    """Return the refusal of a command for whose bytes there was no room within `seconds`."""
    return Overloaded(
        f"retry-after-ms={RETRY_AFTER_MS} no room for the command within {seconds:g} s: {used} bytes are "
        f"in flight, and the limit is {limit} (MAX_IN_FLIGHT_BYTES); nothing was done"
    )
