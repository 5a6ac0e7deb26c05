"""Pure. CLIENT KILL: selects connections by its conditions, and closes them.

Others are closed at once; the caller's own connection only after the reply to this command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from milena_cache.servers.resp.commands.connection.client_list import client_type, type_of
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.client_registry import Client
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

Meant = Callable[["Client"], bool]


def kill(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) == 3:
        if not _kill(context, session, _by_addr(argv[2])):
            raise CommandError("ERR No such client")
        return Raw(OK)
    if len(argv) % 2:
        raise CommandError(SYNTAX)
    conditions: list[Meant] = []
    spare_me = True
    for option, value in zip(argv[2::2], argv[3::2], strict=True):
        if option.upper() == b"SKIPME":
            spare_me = _yes(value)
        else:
            conditions.append(_condition(context, option.upper(), value))
    if spare_me:
        conditions.append(lambda client: client.session is not session)
    return _kill(context, session, lambda client: all(meant(client) for meant in conditions))


def _kill(context: Context, session: Session, meant: Meant) -> int:
    """Close the connections for which `meant` returns True, and return how many."""
    chosen = [client for client in context.clients.by_id.values() if meant(client)]
    for client in chosen:
        if client.session is session:
            session.closing = True  # after the reply to this command
        else:
            client.disconnect("killed")
    return len(chosen)


def _yes(word: bytes) -> bool:
    if word.lower() not in (b"yes", b"no"):
        raise CommandError(SYNTAX)
    return word.lower() == b"yes"


def _by_addr(word: bytes) -> Meant:
    addr = word.decode(errors="replace")
    return lambda client: client.session.addr == addr


def _condition(context: Context, option: bytes, value: bytes) -> Meant:
    match option:
        case b"ID":
            number = integer(value, "ERR client-id should be greater than 0")
            if number < 1:
                raise CommandError("ERR client-id should be greater than 0")
            return lambda client: client.session.id == number
        case b"TYPE":
            kind = client_type(value)
            return lambda client: type_of(client.session) == kind
        case b"ADDR":
            return _by_addr(value)
        case b"LADDR":
            laddr = value.decode(errors="replace")
            return lambda client: client.session.laddr == laddr
        case b"USER":
            name = value.decode(errors="replace")
            if name not in context.permissions.access.users:
                raise CommandError(f"ERR No such user '{name[:128]}'")
            return lambda client: client.session.principal.name == name
        case b"MAXAGE":
            age = integer(value, "ERR maxage is not an integer or out of range")
            if age < 1:
                raise CommandError("ERR maxage should be greater than 0")
            oldest = context.clock.now() - age
            return lambda client: client.session.created_at <= oldest
        case _:
            raise CommandError(SYNTAX)
