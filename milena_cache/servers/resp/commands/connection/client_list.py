"""Pure. CLIENT LIST and CLIENT INFO: a line for each connection, with Redis's fields in Redis's order.

Fields of features that Milena does not have (databases, pattern subscriptions, replication) are constant.
"""

from __future__ import annotations

from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.client_registry import Client
from milena_cache.servers.resp.state.context import Context
from milena_common.resp.encoding import Verbatim
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

# Connections have one of the first two types; the others are accepted because Redis has them.
NORMAL = "normal"
PUBSUB = "pubsub"
TYPES = (NORMAL, PUBSUB, "master", "replica", "slave")


def client_type(word: bytes) -> str:
    """Return the type that `word` names. Raises CommandError if there is no such type."""
    name = word.decode(errors="replace").lower()
    if name not in TYPES:
        raise CommandError(f"ERR Unknown client type '{word[:128].decode(errors='replace')}'")
    return name


def type_of(session: Session) -> str:
    """Return the type of a connection, NORMAL or PUBSUB."""
    return PUBSUB if session.subscribed else NORMAL


def line(context: Context, client: Client) -> str:
    """Return the line for a connection, without a line end."""
    session = client.session
    now = context.clock.now()
    follower = context.tracking.of(session.id)
    unsent, unread = client.unsent, client.unread
    fields = {
        "id": session.id,
        "addr": session.addr,
        "laddr": session.laddr,
        "fd": -1,
        "name": session.name,
        "age": int(now - session.created_at),
        "idle": int(now - session.last_at),
        "flags": _flags(session, tracks=follower is not None)
        + ("B" if follower and follower.options.bcast else "")
        + ("R" if follower and follower.broken else ""),
        "db": 0,
        "sub": len(context.channels.names_of(session, "channel")),
        "psub": len(context.channels.names_of(session, "pattern")),
        "ssub": len(context.channels.names_of(session, "shard")),
        "multi": -1 if session.transaction is None else session.transaction.number,
        "watch": len(session.watched),
        "qbuf": unread,
        "qbuf-free": 0,
        "argv-mem": 0,
        "multi-mem": 0 if session.transaction is None else session.transaction.bytes,
        "rbs": 0,
        "rbp": 0,
        "obl": 0,
        "oll": 0,
        "omem": unsent,
        "tot-mem": unsent + unread,
        "events": "r",
        "cmd": session.last_command or "NULL",
        "user": session.principal.name,
        "redir": follower.options.redirect if follower else -1,
        "resp": session.protocol,
        "lib-name": session.lib_name,
        "lib-ver": session.lib_ver,
        "tot-net-in": session.received,
        "tot-net-out": session.sent,
        "tot-cmds": session.commands,
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _flags(session: Session, *, tracks: bool) -> str:
    flags = "P" if session.subscribed else ""
    flags += "t" if tracks else ""
    flags += "e" if session.no_evict else ""
    flags += "T" if session.no_touch else ""
    flags += "c" if session.closing else ""
    return flags or "N"


def info(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    client = context.clients.by_id.get(session.id)
    return Verbatim(f"{line(context, client)}\n" if client else "")


def list_(context: Context, session: Session, argv: list[bytes]) -> Verbatim:
    clients = context.clients.by_id
    chosen = list(clients.values())
    match [argv[2].upper() if len(argv) > 2 else b"", *argv[3:]]:
        case [b""]:
            pass
        case [b"TYPE", name]:
            kind = client_type(name)
            chosen = [client for client in chosen if type_of(client.session) == kind]
        case [b"ID", _, *_]:
            ids = [integer(word, "ERR Invalid client ID") for word in argv[3:]]
            chosen = [clients[number] for number in ids if number in clients]
        case _:
            raise CommandError(SYNTAX)
    return Verbatim("".join(f"{line(context, client)}\n" for client in chosen))
