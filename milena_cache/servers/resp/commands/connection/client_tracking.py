"""Pure. CLIENT TRACKING, CACHING, TRACKINGINFO and GETREDIR, with Redis's rules and error texts.

The arguments are checked here; `Tracking` has the state.
"""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.tracking import Follower, Options
from milena_common.resp.encoding import OK, Raw, bulk
from milena_common.resp.redis_replies import NOT_AN_INTEGER, SYNTAX, CommandError, integer

_DIFFERENT = "before disabling tracking for this client, and then re-enabling it with a different mode."


COMMANDS = CommandTable[Context](
    categories=("slow", "connection"), group="connection", flags=("noscript", "loading", "stale")
)


@COMMANDS.command(
    "client|tracking",
    arity=-3,
    since="6.0.0",
    complexity="O(1). Some options may introduce additional complexity.",
    usage="ON|OFF [REDIRECT <id>] [BCAST] [PREFIX <prefix> ...] [OPTIN] [OPTOUT] [NOLOOP]",
    summary="Enable or disable server assisted client side caching support",
)
def tracking(context: Context, session: Session, argv: list[bytes]) -> Any:
    options = _options(context, argv)
    match argv[2].upper():
        case b"ON":
            _check(context.tracking.of(session.id), options)
            context.tracking.follow(session, options)
        case b"OFF":
            context.tracking.stop_tracking(session.id)
        case _:
            raise CommandError(SYNTAX)
    return Raw(OK)


def _options(context: Context, argv: list[bytes]) -> Options:
    redirect = 0
    flags: set[str] = set()
    prefixes: list[bytes] = []
    rest = iter(argv[3:])
    left = len(argv) - 3
    for word in rest:
        left -= 1
        match word.upper():
            case b"REDIRECT" if left:
                if redirect:
                    raise CommandError("ERR A client can only redirect to a single other client")
                redirect = integer(next(rest), NOT_AN_INTEGER)
                left -= 1
                if redirect not in context.clients.by_id:
                    raise CommandError("ERR The client ID you want redirect to does not exist")
            case b"PREFIX" if left:
                prefixes.append(next(rest))
                left -= 1
            case b"BCAST" | b"OPTIN" | b"OPTOUT" | b"NOLOOP":
                flags.add(word.decode().lower())
            case _:
                raise CommandError(SYNTAX)
    return Options(
        redirect=redirect,
        bcast="bcast" in flags,
        prefixes=tuple(prefixes),
        optin="optin" in flags,
        optout="optout" in flags,
        noloop="noloop" in flags,
    )


def _check(follower: Follower | None, options: Options) -> None:
    """Raise CommandError for options that exclude each other, or the options that are in force."""
    if options.prefixes and not options.bcast:
        raise CommandError("ERR PREFIX option requires BCAST mode to be enabled")
    if follower is not None and follower.options.bcast != options.bcast:
        raise CommandError(f"ERR You can't switch BCAST mode on/off {_DIFFERENT}")
    if options.bcast and (options.optin or options.optout):
        raise CommandError("ERR OPTIN and OPTOUT are not compatible with BCAST")
    if options.optin and options.optout:
        raise CommandError("ERR You can't specify both OPTIN mode and OPTOUT mode")
    if follower is not None:
        before = follower.options
        if (before.optout and options.optin) or (before.optin and options.optout):
            raise CommandError(f"ERR You can't switch OPTIN/OPTOUT mode {_DIFFERENT}")
    for number, prefix in enumerate(options.prefixes):
        for other in sorted(follower.prefixes if follower is not None else ()):
            _check_apart(prefix, other, "an existing")
        for other in options.prefixes[number + 1 :]:
            _check_apart(prefix, other, "another provided")


def _check_apart(prefix: bytes, other: bytes, which: str) -> None:
    if prefix.startswith(other) or other.startswith(prefix):
        one, two = prefix.decode(errors="replace"), other.decode(errors="replace")
        raise CommandError(
            f"ERR Prefix '{one}' overlaps with {which} prefix '{two}'. "
            "Prefixes for a single client must not overlap."
        )


@COMMANDS.command(
    "client|caching",
    arity=3,
    since="6.0.0",
    usage="YES|NO",
    summary="Instruct the server about tracking or not keys in the next request",
)
def caching(context: Context, session: Session, argv: list[bytes]) -> Any:
    follower = context.tracking.of(session.id)
    if follower is None:
        raise CommandError(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode "
            "enabled"
        )
    match argv[2].upper():
        case b"YES":
            if not follower.options.optin:
                raise CommandError("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
        case b"NO":
            if not follower.options.optout:
                raise CommandError("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
        case _:
            raise CommandError(SYNTAX)
    follower.caching = session.commands
    return Raw(OK)


@COMMANDS.command(
    "client|trackinginfo",
    arity=2,
    since="6.2.0",
    summary="Return information about server assisted client side caching for the current connection",
)
def trackinginfo(context: Context, session: Session, argv: list[bytes]) -> Any:
    follower = context.tracking.of(session.id)
    flags = _flags(follower, session)
    return {
        # A set of RESP3, in Redis's order.
        "flags": Raw(b"~%d\r\n%b" % (len(flags), b"".join(bulk(flag.encode()) for flag in flags)))
        if session.resp3
        else flags,
        "redirect": getredir(context, session, argv),
        "prefixes": sorted(follower.prefixes) if follower is not None else [],
    }


def _flags(follower: Follower | None, session: Session) -> list[str]:
    if follower is None:
        return ["off"]
    options = follower.options
    caching = follower.caching and (options.optin or follower.caching + 1 == session.commands)
    return [
        "on",
        *(["bcast"] if options.bcast else []),
        *(["optin"] if options.optin else []),
        *(["caching-yes"] if options.optin and caching else []),
        *(["optout"] if options.optout else []),
        *(["caching-no"] if options.optout and caching else []),
        *(["noloop"] if options.noloop else []),
        *(["broken_redirect"] if follower.broken else []),
    ]


@COMMANDS.command(
    "client|getredir",
    arity=2,
    since="6.0.0",
    summary="Get tracking notifications redirection client ID if any",
)
def getredir(context: Context, session: Session, argv: list[bytes]) -> Any:
    del argv
    follower = context.tracking.of(session.id)
    return -1 if follower is None else follower.options.redirect
