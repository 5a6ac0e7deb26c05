"""Coordination. The commands with which a connection begins and ends: HELLO, AUTH, PING, QUIT and the like.

A login after too many failed ones waits first, and the commands behind it wait with it (`Session.logging_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.permissions import PORT
from milena_common.access.principals import DEFAULT, Principal
from milena_common.api.errors import Unauthenticated
from milena_common.resp.encoding import OK, RESP2, RESP3, Raw, Simple
from milena_common.resp.redis_replies import (
    LOGIN_FIRST,
    NO_PASSWORD,
    REDIS_VERSION,
    SYNTAX,
    WRONG_USER,
    CommandError,
    integer,
    printable,
)

COMMANDS = CommandTable[Context](categories=("connection",), group="connection")


@COMMANDS.command(
    "ping",
    arity=-1,
    flags=("fast",),
    summary="Returns the server's liveliness response.",
    while_subscribed=True,
)
def ping(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) > 2:
        raise CommandError("ERR wrong number of arguments for 'ping' command")
    if session.subscribed and not session.resp3:
        # In the form of a message: a RESP2 client with a subscription reads nothing else.
        return [b"pong", argv[1] if len(argv) == 2 else b""]
    return argv[1] if len(argv) == 2 else Simple("PONG")


@COMMANDS.command(
    "echo",
    arity=2,
    flags=("loading", "stale", "fast"),
    summary="Returns the given string.",
)
def echo(context: Context, session: Session, argv: list[bytes]) -> bytes:
    return argv[1]


@COMMANDS.command(
    "hello",
    arity=-1,
    flags=("noscript", "loading", "stale", "fast", "no_auth", "allow_busy"),
    since="6.0.0",
    summary="Handshakes with the Redis server.",
    behind_all=True,
)
def hello(context: Context, session: Session, argv: list[bytes]) -> Any:
    protocol = session.protocol
    if len(argv) > 1:
        protocol = integer(argv[1], "ERR Protocol version is not an integer or out of range")
        if protocol not in (RESP2, RESP3):
            raise CommandError("NOPROTO unsupported protocol version")
    name: str | None = None
    credentials: tuple[bytes, bytes] | None = None
    at = 2
    while at < len(argv):
        match argv[at].upper():
            case b"AUTH" if len(argv) > at + 2:
                credentials = argv[at + 1], argv[at + 2]
                at += 3
            case b"SETNAME" if len(argv) > at + 1:
                name = printable(argv[at + 1], "Client names")
                at += 2
            case option:
                del option
                shown = argv[at][:128].decode(errors="replace")
                raise CommandError(f"ERR Syntax error in HELLO option '{shown}'")

    def begun(principal: Principal) -> dict[str, Any]:
        if name is not None:
            session.name = name
        session.principal = principal
        session.protocol = protocol
        if protocol == RESP2:
            session.deferring = False
        return _described(session)

    if credentials is not None:
        return _login(context, session, *credentials, begun)
    if not session.principal.authenticated:
        context.permissions.access.missing(session.addr, PORT)
        raise CommandError(LOGIN_FIRST)
    return begun(session.principal)


def _described(session: Session) -> dict[str, Any]:
    return {
        "server": "redis",
        "version": REDIS_VERSION,
        "proto": session.protocol,
        "id": session.id,
        "mode": "cluster",
        "role": "master",
        # Its version grows with what Milena's own callers may send: 1: SET with RECEIPT and WITHIN.
        "modules": [{"name": "milena", "ver": 1, "path": "", "args": []}],
    }


@COMMANDS.command(
    "auth",
    arity=-2,
    flags=("noscript", "loading", "stale", "fast", "no_auth", "allow_busy"),
    summary="Authenticates the connection.",
    behind_all=True,
)
def auth(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) > 3:
        raise CommandError(SYNTAX)
    name = argv[1] if len(argv) == 3 else DEFAULT.encode()
    if len(argv) == 2:
        default = context.permissions.access.users.get(DEFAULT)
        if default is not None and default.enabled and default.no_password:
            raise CommandError(NO_PASSWORD)

    def done(principal: Principal) -> Raw:
        session.principal = principal
        return Raw(OK)

    return _login(context, session, name, argv[-1], done)


def _login(
    context: Context, session: Session, name: bytes, password: bytes, done: Callable[[Principal], Any]
) -> Any:
    """Return what `done` returns for the principal, or an awaitable of it if the login has to wait.

    Raises CommandError, and RateLimited.
    """
    access = context.permissions.access
    texts = name.decode(errors="surrogateescape"), password.decode(errors="surrogateescape")

    def login(*, waited: bool = False) -> Any:
        try:
            principal = access.login(*texts, session.addr, PORT, waited=waited)
        except Unauthenticated:
            raise CommandError(WRONG_USER) from None
        return done(principal)

    async def login_later() -> Any:
        session.logging_in = True
        try:
            await context.clock.sleep(seconds)
            return login(waited=True)
        finally:
            session.logging_in = False

    seconds = access.wait(session.addr, PORT)
    if not seconds:
        return login()
    session.logging_in = True
    return login_later()


@COMMANDS.command(
    "select",
    arity=2,
    flags=("loading", "stale", "fast"),
    summary="Changes the selected database.",
)
def select(context: Context, session: Session, argv: list[bytes]) -> Raw:
    if integer(argv[1]) != 0:
        raise CommandError("ERR SELECT is not allowed in cluster mode")
    return Raw(OK)


@COMMANDS.command(
    "quit",
    arity=-1,
    flags=("noscript", "loading", "stale", "fast", "no_auth", "allow_busy"),
    summary="Closes the connection.",
    allowed_in_transaction=True,
    while_subscribed=True,
)
def quit_(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.closing = True
    return Raw(OK)


@COMMANDS.command(
    "reset",
    arity=1,
    flags=("noscript", "loading", "stale", "fast", "no_auth", "allow_busy"),
    since="6.2.0",
    summary="Resets the connection.",
    behind_all=True,
    allowed_in_transaction=True,
    while_subscribed=True,
)
def reset(context: Context, session: Session, argv: list[bytes]) -> Simple:
    context.tracking.stop_tracking(session.id)
    context.channels.end_all(session)
    session.reset()
    return Simple("RESET")
