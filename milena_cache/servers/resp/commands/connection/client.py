"""Pure. CLIENT: names and settings of a connection, and requests about it and about others.

CLIENT LIST and KILL are in modules of their own, CLIENT TRACKING and its relatives in `client_tracking`.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.commands.connection.client_kill import kill
from milena_cache.servers.resp.commands.connection.client_list import info, list_
from milena_cache.servers.resp.commands.connection.handshake import printable
from milena_cache.servers.resp.dispatch.command import SYNTAX, Command, CommandError, Handler, integer
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import no_handler, wrong_form
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import OK, Raw


def on_or_off(word: bytes) -> bool:
    """Return True for ON, False for OFF. Raises CommandError for any other word."""
    if word.upper() not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX)
    return word.upper() == b"ON"


def identity(context: Context, session: Session, argv: list[bytes]) -> int:
    return session.id


def getname(context: Context, session: Session, argv: list[bytes]) -> str | None:
    return session.name or None


def setname(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.name = printable(argv[2], "Client names")
    return Raw(OK)


def setinfo(context: Context, session: Session, argv: list[bytes]) -> Raw:
    match argv[2].upper():
        case b"LIB-NAME":
            session.lib_name = printable(argv[3], "lib-name")
        case b"LIB-VER":
            session.lib_ver = printable(argv[3], "lib-ver")
        case _:
            raise CommandError(f"ERR Unrecognized option '{argv[2][:128].decode(errors='replace')}'")
    return Raw(OK)


def no_evict(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.no_evict = on_or_off(argv[2])
    return Raw(OK)


def no_touch(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.no_touch = on_or_off(argv[2])
    return Raw(OK)


def defer(context: Context, session: Session, argv: list[bytes]) -> Raw:
    deferring = on_or_off(argv[2])
    if deferring and not session.resp3:
        raise CommandError("ERR CLIENT DEFER needs RESP3, because replies come as pushes: send HELLO 3 first")
    session.deferring = deferring
    return Raw(OK)


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


def unblock(context: Context, session: Session, argv: list[bytes]) -> int:
    if len(argv) > 4:
        raise wrong_form("client", argv[1])
    if len(argv) == 4 and argv[3].upper() not in (b"TIMEOUT", b"ERROR"):
        raise CommandError("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    integer(argv[2])
    return 0  # no command here blocks its client


def _subcommand(
    name: str, handler: Handler[Context], arity: int, since: str, usage: str, summary: str, *flags: str, **more: Any
) -> Command[Context]:
    return Command(
        f"client|{name}",
        handler,
        arity,
        flags=("noscript", "loading", "stale", *flags),
        categories=("@connection",),
        group="connection",
        since=since,
        usage=usage,
        summary=summary,
        **more,
    )


_ALL = "O(N) where N is the number of client connections"
_KILL = "<ip:port> | <option> <value> [<option> <value> ...]: ID, ADDR, LADDR, TYPE, USER, MAXAGE, SKIPME"
_LIST = "[TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <id> ...]"

COMMANDS = (
    Command(
        "client", no_handler, -2, group="connection", since="2.4.0", summary="A container for client commands."
    ),
    _subcommand("id", identity, 2, "5.0.0", "", "Returns the unique client ID of the connection."),
    _subcommand("getname", getname, 2, "2.6.9", "", "Returns the name of the connection."),
    _subcommand("setname", setname, 3, "2.6.9", "<name>", "Sets the connection name."),
    _subcommand(
        "setinfo", setinfo, 4, "7.2.0", "(LIB-NAME|LIB-VER) <value>", "Sets information specific to the client."
    ),
    _subcommand("list", list_, -2, "2.4.0", _LIST, "Lists open connections.", "admin", complexity=_ALL),
    _subcommand("info", info, 2, "6.2.0", "", "Returns information about the connection."),
    _subcommand("kill", kill, -3, "2.4.0", _KILL, "Terminates open connections.", "admin", complexity=_ALL),
    _subcommand("no-evict", no_evict, 3, "7.0.0", "(ON|OFF)", "Has no effect: no client is ever evicted.", "admin"),
    _subcommand(
        "no-touch", no_touch, 3, "7.2.0", "(ON|OFF)", "Has no effect: reads always count for the order of eviction."
    ),
    _subcommand("reply", reply, 3, "3.2.0", "(ON|OFF|SKIP)", "Instructs the server whether to reply to commands."),
    _subcommand(
        "unblock",
        unblock,
        -3,
        "5.0.0",
        "<client-id> [TIMEOUT|ERROR]",
        "Returns 0: no command here blocks its client.",
        "admin",
    ),
    _subcommand(
        "defer",
        defer,
        3,
        "7.4.0",
        "(ON|OFF)",
        "Milena's own: replies that have to wait come later, as pushes, and hold up no others.",
        behind_all=True,
    ),
)
