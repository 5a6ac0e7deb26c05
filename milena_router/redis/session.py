"""Pure. The state of one client's connection: protocol, names, modes and counts.

RESET brings it back to that of a new connection, but for identity and counts.
"""

from __future__ import annotations

from typing import Any

from milena_common.access.principals import EVERYONE, Principal
from milena_common.access.rules import User
from milena_common.forwarding.transactions import Transaction
from milena_common.network.security import PeerChain
from milena_common.resp.encoding import RESP2, RESP3
from milena_common.tls.peer import PeerCertificate


class Session:
    """The state of one connection.

    id: its number, never used again
    addr, laddr: host:port of the client and of the router
    certificate, chain: what its verified certificate says; None without one
    created_at, last_at: when it was opened, and last read from; monotonic seconds
    commands: how many have begun; `last_command`: the latest one's name
    received, sent: bytes; `charged`: those of both that its user's limit was charged with
    anonymous: its principal until it logs in
    principal: in whose name its requests are made; setting it sets `guard`
    guard: the user whose rules are checked for each command; None: everything is allowed
    logging_in: True while a login waits, after failed ones; the commands behind it wait too
    subscribed: True while it is subscribed to any channel
    closing: True if it closes after the reply to the present command
    protocol: RESP2 or RESP3
    name, lib_name, lib_ver: as given by CLIENT SETNAME and CLIENT SETINFO
    deferring: True if replies that have to wait come later, as pushes (CLIENT DEFER)
    mute: how many commands, the present one included, get no reply; negative: all (CLIENT REPLY)
    transaction: what was queued between MULTI and EXEC or DISCARD; None outside of one
    watched: what the keys are that are watched, by cache key, as their owner says it
    executing: True while an EXEC, WATCH, SUBSCRIBE or FLUSHDB is in flight; the commands behind it wait
    """

    __slots__ = (
        "_principal",
        "addr",
        "anonymous",
        "certificate",
        "chain",
        "charged",
        "closing",
        "commands",
        "created_at",
        "deferring",
        "executing",
        "guard",
        "id",
        "laddr",
        "last_at",
        "last_command",
        "lib_name",
        "lib_ver",
        "logging_in",
        "mute",
        "name",
        "protocol",
        "received",
        "sent",
        "subscribed",
        "transaction",
        "watched",
    )

    def __init__(self, number: int, addr: str, laddr: str, now: float, anonymous: Principal = EVERYONE) -> None:
        self.id = number
        self.addr = addr
        self.laddr = laddr
        self.certificate: PeerCertificate | None = None
        self.chain: PeerChain | None = None
        self.created_at = now
        self.last_at = now
        self.commands = 0
        self.last_command = ""
        self.received = 0
        self.sent = 0
        self.charged = 0
        self.anonymous = anonymous
        self.guard: User | None = None
        self.logging_in = False
        self.executing = False
        self.closing = False
        self.reset_modes()

    def reset_modes(self) -> None:
        """Set what RESET sets, as for a new connection."""
        self.principal = self.anonymous
        self.protocol = RESP2
        self.name = ""
        self.lib_name = ""
        self.lib_ver = ""
        self.deferring = False
        self.mute = 0
        self.subscribed = False
        self.end_transaction()

    def end_transaction(self) -> None:
        """Drop what was queued and is watched."""
        self.transaction: Transaction[Any] | None = None
        self.watched: dict[bytes, bytes] = {}

    @property
    def plain(self) -> bool:
        """True if its GETs need no check, and get a reply."""
        return self.guard is None and not self.mute and self.transaction is None and not self.subscribed

    @property
    def resp3(self) -> bool:
        return self.protocol == RESP3

    @property
    def principal(self) -> Principal:
        return self._principal

    @principal.setter
    def principal(self, principal: Principal) -> None:
        self._principal = principal
        self.guard = principal.guard

    def line(self, now: float, unsent: int, unread: int, sub: int, psub: int, ssub: int) -> str:
        """Return the connection as CLIENT LIST and INFO show it, with Redis's fields in Redis's order.

        `unsent`, `unread`: bytes; the others: channels, patterns and shard channels to which it is subscribed.
        """
        fields = {
            "id": self.id,
            "addr": self.addr,
            "laddr": self.laddr,
            "fd": -1,
            "name": self.name,
            "age": int(now - self.created_at),
            "idle": int(now - self.last_at),
            "flags": "c" if self.closing else "P" if self.subscribed else "N",
            "db": 0,
            "sub": sub,
            "psub": psub,
            "ssub": ssub,
            "multi": -1 if self.transaction is None else self.transaction.number,
            "watch": len(self.watched),
            "qbuf": unread,
            "qbuf-free": 0,
            "argv-mem": 0,
            "multi-mem": 0,
            "rbs": 0,
            "rbp": 0,
            "obl": 0,
            "oll": 0,
            "omem": unsent,
            "tot-mem": unsent + unread,
            "events": "r",
            "cmd": self.last_command or "NULL",
            "user": self.principal.name,
            "redir": -1,
            "resp": self.protocol,
            "lib-name": self.lib_name,
            "lib-ver": self.lib_ver,
            "tot-net-in": self.received,
            "tot-net-out": self.sent,
            "tot-cmds": self.commands,
        }
        return " ".join(f"{name}={value}" for name, value in fields.items())
