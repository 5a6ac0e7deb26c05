"""Pure. CLIENT: names and settings of a connection, and requests about it and about others.

CLIENT LIST and KILL are in modules of their own, CLIENT TRACKING and its relatives in `client_tracking`.
"""

from __future__ import annotations

from milena_cache.servers.resp.commands.connection.client_kill import kill
from milena_cache.servers.resp.commands.connection.client_list import info, list_
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer, printable, wrong_form

COMMANDS = CommandTable[Context](
    categories=("connection",), group="connection", flags=("noscript", "loading", "stale")
)


def on_or_off(word: bytes) -> bool:
    """Return True for ON, False for OFF. Raises CommandError for any other word."""
    if word.upper() not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX)
    return word.upper() == b"ON"


COMMANDS.parent(
    "client",
    group="connection",
    since="2.4.0",
    summary="A container for client commands.",
)


@COMMANDS.command(
    "client|id",
    arity=2,
    since="5.0.0",
    summary="Returns the unique client ID of the connection.",
)
def identity(context: Context, session: Session, argv: list[bytes]) -> int:
    return session.id


@COMMANDS.command(
    "client|getname",
    arity=2,
    since="2.6.9",
    summary="Returns the name of the connection.",
)
def getname(context: Context, session: Session, argv: list[bytes]) -> str | None:
    return session.name or None


@COMMANDS.command(
    "client|setname",
    arity=3,
    since="2.6.9",
    usage="<name>",
    summary="Sets the connection name.",
)
def setname(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.name = printable(argv[2], "Client names")
    return Raw(OK)


@COMMANDS.command(
    "client|setinfo",
    arity=4,
    since="7.2.0",
    usage="(LIB-NAME|LIB-VER) <value>",
    summary="Sets information specific to the client.",
)
def setinfo(context: Context, session: Session, argv: list[bytes]) -> Raw:
    match argv[2].upper():
        case b"LIB-NAME":
            session.lib_name = printable(argv[3], "lib-name")
        case b"LIB-VER":
            session.lib_ver = printable(argv[3], "lib-ver")
        case _:
            raise CommandError(f"ERR Unrecognized option '{argv[2][:128].decode(errors='replace')}'")
    return Raw(OK)


COMMANDS.command(
    "client|list",
    arity=-2,
    flags=("noscript", "loading", "stale", "admin"),
    since="2.4.0",
    complexity="O(N) where N is the number of client connections",
    usage="[TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <id> ...]",
    summary="Lists open connections.",
)(list_)


COMMANDS.command(
    "client|info",
    arity=2,
    since="6.2.0",
    summary="Returns information about the connection.",
)(info)


COMMANDS.command(
    "client|kill",
    arity=-3,
    flags=("noscript", "loading", "stale", "admin"),
    since="2.4.0",
    complexity="O(N) where N is the number of client connections",
    usage="<ip:port> | <option> <value> [<option> <value> ...]: ID, ADDR, LADDR, TYPE, USER, MAXAGE, SKIPME",
    summary="Terminates open connections.",
)(kill)


@COMMANDS.command(
    "client|no-evict",
    arity=3,
    flags=("noscript", "loading", "stale", "admin"),
    since="7.0.0",
    usage="(ON|OFF)",
    summary="Has no effect: no client is ever evicted.",
)
def no_evict(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.no_evict = on_or_off(argv[2])
    return Raw(OK)


@COMMANDS.command(
    "client|no-touch",
    arity=3,
    since="7.2.0",
    usage="(ON|OFF)",
    summary="Has no effect: reads always count for the order of eviction.",
)
def no_touch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.no_touch = on_or_off(argv[2])
    return Raw(OK)


@COMMANDS.command(
    "client|reply",
    arity=3,
    since="3.2.0",
    usage="(ON|OFF|SKIP)",
    summary="Instructs the server whether to reply to commands.",
)
def reply(context: Context, session: Session, argv: list[bytes]) -> Raw:
    match argv[2].upper():
        case b"ON":
            session.mute = 0
        case b"OFF":
            session.mute = -1
        case b"SKIP":
            if session.mute >= 0:
                session.mute = 2  # this one and the next
        case _:
            raise CommandError(SYNTAX)
    return Raw(OK)


@COMMANDS.command(
    "client|unblock",
    arity=-3,
    flags=("noscript", "loading", "stale", "admin"),
    since="5.0.0",
    usage="<client-id> [TIMEOUT|ERROR]",
    summary="Returns 0: no command here blocks its client.",
)
def unblock(context: Context, session: Session, argv: list[bytes]) -> int:
    if len(argv) > 4:
        raise wrong_form("client", argv[1])
    if len(argv) == 4 and argv[3].upper() not in (b"TIMEOUT", b"ERROR"):
        raise CommandError("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    integer(argv[2])
    return 0  # no command here blocks its client


@COMMANDS.command(
    "client|defer",
    arity=3,
    since="7.4.0",
    usage="(ON|OFF)",
    summary="Milena's own: replies that have to wait come later, as pushes, and hold up no others.",
    behind_all=True,
)
def defer(context: Context, session: Session, argv: list[bytes]) -> Raw:
    deferring = on_or_off(argv[2])
    if deferring and not session.resp3:
        raise CommandError("ERR CLIENT DEFER needs RESP3, because replies come as pushes: send HELLO 3 first")
    session.deferring = deferring
    return Raw(OK)
