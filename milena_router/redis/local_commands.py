"""Pure. The commands that the router replies to itself: those of the connection, and those about the server.

Replies are a node's, but for what is about a cluster: clients see a standalone server. What makes no sense here is
rejected with what to use instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from milena_common.access.commands import CATEGORIES_OF
from milena_common.access.principals import DEFAULT, Principal
from milena_common.api.errors import Unauthenticated
from milena_common.forwarding.routing import FORWARDED, find
from milena_common.forwarding.scripts import flushed
from milena_common.pubsub.channels import KINDS, Kind
from milena_common.resp.encoding import OK, RESP2, RESP3, Raw, Simple, Verbatim
from milena_common.resp.identity import Identity
from milena_common.resp.redis_replies import (
    LOGIN_FIRST,
    NO_PASSWORD,
    REDIS_VERSION,
    SYNTAX,
    WRONG_USER,
    CommandError,
    integer,
    printable,
    unknown_subcommand,
    wrong_arity,
)
from milena_common.runtime.clock import monotonic_ms
from milena_router.redis import all_keys, publishing, transactions
from milena_router.redis.context import Context, Handler, Local
from milena_router.redis.permissions import PORT
from milena_router.redis.session import Session

NO_CLUSTER: Final = "ERR This instance has cluster support disabled"
_AT_A_NODE: Final = "is not available through a router; connect to a node, which serves the Redis protocol as well"
_NO_TRACKING: Final = (
    "is not available through a router: the invalidations of CLIENT TRACKING come from nodes; connect to a node"
)


def _ping(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) > 2:
        raise wrong_arity("ping")
    if session.subscribed and not session.resp3:
        # In the form of a message: a RESP2 client with a subscription reads nothing else.
        return [b"pong", argv[1] if len(argv) == 2 else b""]
    return argv[1] if len(argv) == 2 else Simple("PONG")


def _echo(context: Context, session: Session, argv: list[bytes]) -> bytes:
    return argv[1]


def _select(context: Context, session: Session, argv: list[bytes]) -> Raw:
    if integer(argv[1]) != 0:
        raise CommandError("ERR DB index is out of range")
    return Raw(OK)


def _quit(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.closing = True
    return Raw(OK)


def _reset(context: Context, session: Session, argv: list[bytes]) -> Simple:
    context.feeds.channels.end_all(session)
    session.reset_modes()
    return Simple("RESET")


def _hello(context: Context, session: Session, argv: list[bytes]) -> Any:
    protocol = session.protocol
    if len(argv) > 1:
        protocol = integer(argv[1], "ERR Protocol version is not an integer or out of range")
        if protocol not in (RESP2, RESP3):
            raise CommandError("NOPROTO unsupported protocol version")
    name: str | None = None
    credentials: tuple[bytes, bytes] | None = None
    at = 2
    while at < len(argv):
        option = argv[at].upper()
        if option == b"AUTH" and len(argv) > at + 2:
            credentials = argv[at + 1], argv[at + 2]
            at += 3
        elif option == b"SETNAME" and len(argv) > at + 1:
            name = printable(argv[at + 1], "Client names")
            at += 2
        else:
            shown = argv[at][:128].decode(errors="replace")
            raise CommandError(f"ERR Syntax error in HELLO option '{shown}'")

    def begun(principal: Principal) -> dict[str, Any]:
        if name is not None:
            session.name = name
        session.principal = principal
        session.protocol = protocol
        if protocol == RESP2:
            session.deferring = False
        return {
            "server": "redis",
            "version": REDIS_VERSION,
            "proto": protocol,
            "id": session.id,
            "mode": "standalone",
            "role": "master",
            "modules": [],
        }

    if credentials is not None:
        return _login(context, session, *credentials, begun)
    if not session.principal.authenticated:
        context.access.missing(session.addr, PORT)
        raise CommandError(LOGIN_FIRST)
    return begun(session.principal)


def _auth(context: Context, session: Session, argv: list[bytes]) -> Any:
    if len(argv) > 3:
        raise CommandError(SYNTAX)
    name = argv[1] if len(argv) == 3 else DEFAULT.encode()
    if len(argv) == 2:
        default = context.access.users.get(DEFAULT)
        if default is not None and default.enabled and default.no_password:
            raise CommandError(NO_PASSWORD)

    def done(principal: Principal) -> Raw:
        session.principal = principal
        return Raw(OK)

    return _login(context, session, name, argv[-1], done)


def _login(
    context: Context, session: Session, name: bytes, password: bytes, done: Callable[[Principal], Any]
) -> Any:
    """Return what `done` returns for the principal, or an awaitable of it if the login has to wait."""
    access = context.access
    texts = name.decode(errors="surrogateescape"), password.decode(errors="surrogateescape")

    def login(*, waited: bool = False) -> Any:
        try:
            principal = access.login(*texts, session.addr, PORT, waited=waited)
        except Unauthenticated:
            raise CommandError(WRONG_USER) from None
        return done(principal)

    async def login_later() -> Any:
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


def _milena_hello(context: Context, session: Session, argv: list[bytes]) -> int:
    """Check `MILENA.HELLO cluster bucket node`, and return this router's time. Raises WrongNode, and closes."""
    meant = Identity(*(word.decode(errors="replace") for word in argv[1:]))
    try:
        context.identity().check(meant)
    except BaseException:
        session.closing = True
        raise
    return monotonic_ms(context.clock)


# ---- CLIENT


def _on(word: bytes) -> bool:
    if word.upper() not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX)
    return word.upper() == b"ON"


def _client_id(context: Context, session: Session, argv: list[bytes]) -> int:
    return session.id


def _client_getname(context: Context, session: Session, argv: list[bytes]) -> str | None:
    return session.name or None


def _client_setname(context: Context, session: Session, argv: list[bytes]) -> Raw:
    session.name = printable(argv[2], "Client names")
    return Raw(OK)


def _client_setinfo(context: Context, session: Session, argv: list[bytes]) -> Raw:
    option = argv[2].upper()
    if option == b"LIB-NAME":
        session.lib_name = printable(argv[3], "lib-name")
    elif option == b"LIB-VER":
        session.lib_ver = printable(argv[3], "lib-ver")
    else:
        raise CommandError(f"ERR Unrecognized option '{argv[2][:128].decode(errors='replace')}'")
    return Raw(OK)


def _client_info(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    return Verbatim(_lines(context, [session.id]))


def _client_list(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    if len(argv) == 2:
        return Verbatim(_lines(context, context.sessions))
    if argv[2].upper() == b"ID" and len(argv) > 3:
        return Verbatim(_lines(context, [integer(word, "ERR Invalid client ID") for word in argv[3:]]))
    raise CommandError(SYNTAX)


def _lines(context: Context, numbers: Iterable[int]) -> str:
    now = context.clock.now()
    found = (context.sessions[number] for number in numbers if number in context.sessions)
    return "".join(f"{session.line(now, *sizes(), *_subscribed(context, session))}\n" for session, sizes in found)


def _subscribed(context: Context, session: Session) -> tuple[int, int, int]:
    """Return the numbers of channels, patterns and shard channels to which a client is subscribed."""
    channel, pattern, shard = (len(context.feeds.channels.names_of(session, kind)) for kind in KINDS)
    return channel, pattern, shard


def _client_reply(context: Context, session: Session, argv: list[bytes]) -> Raw:
    option = argv[2].upper()
    if option == b"ON":
        session.mute = 0
    elif option == b"OFF":
        session.mute = -1
    elif option == b"SKIP":
        if session.mute >= 0:
            session.mute = 2  # this one and the next
    else:
        raise CommandError(SYNTAX)
    return Raw(OK)


def _client_defer(context: Context, session: Session, argv: list[bytes]) -> Raw:
    deferring = _on(argv[2])
    if deferring and session.protocol != RESP3:
        raise CommandError("ERR CLIENT DEFER needs RESP3, because replies come as pushes: send HELLO 3 first")
    session.deferring = deferring
    return Raw(OK)


def _client_option(context: Context, session: Session, argv: list[bytes]) -> Raw:
    _on(argv[2])
    return Raw(OK)


# ---- scripts, which nodes run


def _script_load(context: Context, session: Session, argv: list[bytes]) -> bytes:
    return context.scripts.add(argv[2])


def _script_exists(context: Context, session: Session, argv: list[bytes]) -> list[int]:
    return [int(context.scripts.has(digest)) for digest in argv[2:]]


def _script_flush(context: Context, session: Session, argv: list[bytes]) -> Raw:
    flushed(context.scripts, argv)
    return Raw(OK)


# ---- the server


def _time(context: Context, session: Session, argv: list[bytes]) -> list[str]:
    microseconds = int(context.clock.wall() * 1e6)
    return [str(microseconds // 10**6), str(microseconds % 10**6)]


def _role(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    return ["master", 0, []]


def _whoami(context: Context, session: Session, argv: list[bytes]) -> str:
    return session.principal.name


def _info(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    requested = {word.decode(errors="replace").lower() for word in argv[1:]} or {"default"}
    everything = requested & {"default", "all", "everything"}
    ring = context.ring()
    uptime = int(context.clock.now() - context.started_at)
    sections: dict[str, dict[str, object]] = {
        "Server": {
            "redis_version": REDIS_VERSION,
            "redis_mode": "standalone",
            "uptime_in_seconds": uptime,
            "uptime_in_days": uptime // 86_400,
            "executable": "milena-router",
            "milena_version": context.version,
        },
        "Clients": {
            "connected_clients": len(context.sessions),
            "maxclients": context.max_connections,
            "blocked_clients": 0,
        },
        "Stats": {
            "total_connections_received": context.opened,
            "rejected_connections": context.rejected,
            "total_commands_processed": context.calls.requests,
            "total_error_replies": context.calls.errors,
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "Cluster": {"cluster_enabled": 0},
        "Milena": {"ring_nodes": len(ring.members), "ring_epoch": ring.epoch},
    }
    texts = [
        f"# {name}\r\n" + "".join(f"{field}:{value}\r\n" for field, value in fields.items())
        for name, fields in sections.items()
        if everything or name.lower() in requested
    ]
    return Verbatim("\r\n".join(texts))


def _described(name: str) -> list[Any]:
    """Return the description of a command in the form of COMMAND INFO."""
    forwarded = FORWARDED.get(name.upper().encode())
    categories = sorted(CATEGORIES_OF.get(name, ()))
    flags = {"fast"} if "fast" in categories else set()
    keys = (0, 0, 0)
    if forwarded is not None:
        flags.add("write" if forwarded.writes else "readonly")
        keys = forwarded.first, forwarded.last, forwarded.step
    arity = forwarded.arity if forwarded is not None else LOCAL[name.upper().encode()].arity
    return [
        name,
        arity,
        {Simple(flag) for flag in flags},
        *keys,
        {Simple(f"@{category}") for category in categories},
        [],
        [],
        [_described(each) for each in _every() if each.startswith(f"{name}|")],
    ]


def _every() -> list[str]:
    return [*(each.name for each in FORWARDED.values()), *(each.name for each in LOCAL.values())]


def _top() -> list[str]:
    return [name for name in _every() if "|" not in name]


def _command(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    return [_described(name) for name in _top()]


def _command_count(context: Context, session: Session, argv: list[bytes]) -> int:
    return len(_top())


def _command_list(context: Context, session: Session, argv: list[bytes]) -> list[str]:
    if len(argv) > 2:
        raise CommandError(SYNTAX)
    return _top()


def _command_info(context: Context, session: Session, argv: list[bytes]) -> list[Any]:
    if len(argv) == 2:
        return _command(context, session, argv)
    known = {name.encode(): name for name in _every()}
    found = (known.get(word.lower()) for word in argv[2:])
    return [None if name is None else _described(name) for name in found]


def _command_docs(context: Context, session: Session, argv: list[bytes]) -> dict[str, Any]:
    requested = {word.lower().decode(errors="replace") for word in argv[2:]}
    return {name: {"group": "generic"} for name in _top() if not requested or name in requested}


def _command_getkeys(context: Context, session: Session, argv: list[bytes]) -> list[bytes]:
    requested = argv[2:]
    forwarded = find(requested)
    if forwarded is None:
        if requested[0].upper() not in LOCAL:
            raise CommandError("ERR Invalid command specified")
        raise CommandError("ERR The command has no key arguments")
    if not forwarded.accepts(len(requested)):
        raise CommandError("ERR Invalid number of arguments specified for command")
    return forwarded.keys_in(requested)


def _no_cluster(context: Context, session: Session, argv: list[bytes]) -> Raw:
    raise CommandError(NO_CLUSTER)


def _without(what: str) -> Handler:
    def rejected(context: Context, session: Session, argv: list[bytes]) -> Raw:
        raise CommandError(f"ERR {argv[0].decode(errors='replace').upper()} {what}")

    return rejected


def _parent(name: str, why: str = _AT_A_NODE) -> Handler:
    def rejected(context: Context, session: Session, argv: list[bytes]) -> Raw:
        if len(argv) == 1:
            raise wrong_arity(name)
        shown = argv[1][:128].decode(errors="replace").upper()
        raise CommandError(f"ERR {name.upper()} {shown} {why}")

    return rejected


def _client(context: Context, session: Session, argv: list[bytes]) -> Raw:
    if len(argv) > 1 and argv[1].upper() in (b"TRACKING", b"CACHING", b"TRACKINGINFO", b"GETREDIR"):
        raise CommandError(f"ERR CLIENT {argv[1].decode().upper()} {_NO_TRACKING}")
    if len(argv) > 1 and argv[1].upper() in (b"KILL", b"UNBLOCK"):
        raise CommandError(f"ERR CLIENT {argv[1].decode().upper()} {_AT_A_NODE}")
    if len(argv) == 1:
        raise wrong_arity("client")
    raise unknown_subcommand("client", argv[1])


def _object(name: str) -> Handler:
    def rejected(context: Context, session: Session, argv: list[bytes]) -> Raw:
        if len(argv) == 1:
            raise wrong_arity(name)
        raise unknown_subcommand(name, argv[1])

    return rejected


def _subscriptions(begins: str, ends: str, kind: Kind) -> tuple[Local, Local]:
    """Return the commands that begin and end subscriptions of a kind: messages come between replies by them."""
    return (
        Local(begins, -2, publishing.subscribe(kind), behind_all=True, while_subscribed=True, messages=True),
        Local(ends, -1, publishing.unsubscribe(kind), behind_all=True, while_subscribed=True, messages=True),
    )


def _table() -> Mapping[bytes, Local]:
    commands = [
        Local("ping", -1, _ping, queued=True, while_subscribed=True),
        Local("echo", 2, _echo, queued=True),
        Local("select", 2, _select, queued=True),
        Local("quit", -1, _quit, in_transaction=True, while_subscribed=True),
        Local("reset", 1, _reset, behind_all=True, in_transaction=True, while_subscribed=True),
        Local("hello", -1, _hello, behind_all=True),
        Local("auth", -2, _auth, behind_all=True),
        Local("milena.hello", 4, _milena_hello, queued=True),
        Local("client", -2, _client, rejects=True),
        Local("client|id", 2, _client_id, queued=True),
        Local("client|getname", 2, _client_getname, queued=True),
        Local("client|setname", 3, _client_setname, queued=True),
        Local("client|setinfo", 4, _client_setinfo, queued=True),
        Local("client|info", 2, _client_info, queued=True),
        Local("client|list", -2, _client_list, queued=True),
        Local("client|reply", 3, _client_reply),
        Local("client|defer", 3, _client_defer, behind_all=True),
        Local("client|no-evict", 3, _client_option, queued=True),
        Local("client|no-touch", 3, _client_option, queued=True),
        Local("multi", 1, transactions.multi, in_transaction=True),
        Local("exec", 1, transactions.exec_, behind_all=True, in_transaction=True),
        Local("discard", 1, transactions.discard, in_transaction=True),
        Local("watch", -2, transactions.watch, behind_all=True, in_transaction=True),
        Local("unwatch", 1, transactions.unwatch, queued=True),
        Local("script", -2, _object("script"), rejects=True),
        Local("script|load", 3, _script_load, queued=True),
        Local("script|exists", -3, _script_exists, queued=True),
        Local("script|flush", -2, _script_flush, queued=True),
        Local("time", 1, _time, queued=True),
        Local("role", 1, _role, queued=True),
        Local("info", -1, _info, queued=True),
        Local("acl", -2, _parent("acl"), rejects=True),
        Local("acl|whoami", 2, _whoami, queued=True),
        Local("command", -1, _command, queued=True),
        Local("command|count", 2, _command_count, queued=True),
        Local("command|list", -2, _command_list, queued=True),
        Local("command|info", -2, _command_info, queued=True),
        Local("command|docs", -2, _command_docs, queued=True),
        Local("command|getkeys", -3, _command_getkeys, queued=True),
        Local("cluster", -2, _no_cluster),
        *(Local(name, 1, _no_cluster) for name in ("asking", "readonly", "readwrite")),
        Local("object", -2, _object("object"), rejects=True),
        Local("memory", -2, _object("memory"), rejects=True),
        *(
            Local(name, -2, _parent(name), rejects=True)
            for name in ("config", "debug", "hotkeys", "latency", "slowlog")
        ),
        *_subscriptions("subscribe", "unsubscribe", "channel"),
        *_subscriptions("psubscribe", "punsubscribe", "pattern"),
        *_subscriptions("ssubscribe", "sunsubscribe", "shard"),
        # A subscriber finds what the commands before it have written.
        *(Local(name, 3, publishing.publish, behind_writes=True, queued=True) for name in ("publish", "spublish")),
        Local("pubsub", -2, _object("pubsub"), rejects=True),
        Local("pubsub|channels", -2, publishing.channels("channel"), queued=True),
        Local("pubsub|shardchannels", -2, publishing.channels("shard"), queued=True),
        Local("pubsub|numsub", -2, publishing.numsub("channel"), queued=True),
        Local("pubsub|shardnumsub", -2, publishing.numsub("shard"), queued=True),
        Local("pubsub|numpat", 2, publishing.numpat, queued=True),
        *(Local(name, -1, publishing.flush, behind_all=True) for name in ("flushdb", "flushall")),
        Local("dbsize", 1, all_keys.dbsize),
        Local("randomkey", 1, all_keys.randomkey),
        # They see what the commands before them have written.
        Local("keys", 2, all_keys.keys, behind_all=True),
        Local("scan", -2, all_keys.scan, behind_all=True),
        *(Local(name, arity, _without(_AT_A_NODE)) for name, arity in (("wait", 3), ("waitaof", 4))),
    ]
    return {command.name.upper().encode(): command for command in commands}


LOCAL: Final = _table()
_WITH_SUBCOMMANDS: Final = frozenset(name.partition(b"|")[0] for name in LOCAL if b"|" in name)


def find_local(argv: list[bytes]) -> Local | None:
    """Return the command, or its subcommand, that `argv` begins with; None if the router has none."""
    name = argv[0].upper()
    if name in _WITH_SUBCOMMANDS and len(argv) > 1:
        return LOCAL.get(b"%b|%b" % (name, argv[1].upper())) or LOCAL[name]
    return LOCAL.get(name)
