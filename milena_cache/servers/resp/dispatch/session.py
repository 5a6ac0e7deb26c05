"""Pure. The state of one connection, which commands read and change: protocol, names, modes and counts.

RESET brings it back to that of a new connection, but for identity and counts. It is also what CLIENT LIST shows.
"""

from __future__ import annotations

from typing import Final

from milena_cache.servers.resp.dispatch.transaction import CommandQueue, Watched
from milena_common.access.principals import EVERYONE, Principal
from milena_common.access.rules import User
from milena_common.network.security import PeerChain
from milena_common.resp.encoding import RESP2, RESP3
from milena_common.tls.peer import PeerCertificate

# What the connections are called (CLIENT SETNAME) over which a node sends on commands of its clients.
FORWARDER_NAME: Final = "milena-forward"


class Session:
    """The state of one connection.

    id: its number, never used again
    addr, laddr: host:port of the client and of the server
    encrypted: True if the connection uses TLS
    certificate: the names in the client's verified certificate; None if it showed none
    chain: what its certificate was accepted for; None if it showed none
    created_at, last_at: when it was opened, and last read from or replied to; monotonic seconds
    last_command, commands: name of the latest command, and how many have begun
    received, sent: bytes
    closing: True if it closes after the reply to the present command
    waited: seconds since the bytes of the command that begins now were read; 0 if they were read just now
    anonymous: its principal until it logs in
    principal: in whose name its requests are made (AUTH, HELLO); setting it sets `guard` and `restricted`
    guard: the user whose rules are checked for each command; None: everything is allowed
    charged: bytes, received and sent, that its user's limit was charged with
    flushing: True while a FLUSHDB is in flight; the commands behind it wait
    logging_in: True while a login waits, after failed ones; the commands behind it wait too
    protocol: RESP2 or RESP3
    name, lib_name, lib_ver: as given by CLIENT SETNAME and CLIENT SETINFO
    identified: True if it named the cluster and the node for which it is meant (MILENA.HELLO), as nodes do
    over_limit: True if it was opened over RESP_MAX_CONNECTIONS, and may only be used by another node
    forwards: True if its commands on keys of other nodes are sent there (RESP_FORWARD); False once it has shown
        that it follows MOVED, as Milena's own connections and those that request CLUSTER do
    spans: True if commands on all keys are about those of all nodes, although it follows MOVED
    deferring: True if replies that have to wait come later, as pushes (CLIENT DEFER)
    no_evict, no_touch: as given by CLIENT NO-EVICT and NO-TOUCH; without effect
    mute: how many commands, the present one included, get no reply; negative: all (CLIENT REPLY)
    transaction: what was queued between MULTI and EXEC or DISCARD; None outside of one
    watched: the keys that are watched, by cache key
    executing: True while an EXEC or WATCH is in flight; the commands behind it wait
    subscribed: True if it gets invalidations on the channel __redis__:invalidate
    tracking: True if its reads are tracked
    restricted: True if GET and SET of some object are not allowed, or limited
    plain: True if none of the modes is on: over_limit, mute, transaction, subscribed, tracking, restricted. It
        is read for every command, they are set by few
    queues: True if a transaction has begun, and none of the other modes is on: SETs may be queued by the fast path
    """

    __slots__ = (
        "_mute",
        "_over_limit",
        "_principal",
        "_restricted",
        "_subscribed",
        "_tracking",
        "_transaction",
        "addr",
        "anonymous",
        "certificate",
        "chain",
        "charged",
        "closing",
        "commands",
        "created_at",
        "deferring",
        "encrypted",
        "executing",
        "flushing",
        "forwards",
        "guard",
        "id",
        "identified",
        "laddr",
        "last_at",
        "last_command",
        "lib_name",
        "lib_ver",
        "logging_in",
        "name",
        "no_evict",
        "no_touch",
        "plain",
        "protocol",
        "queues",
        "received",
        "sent",
        "spans",
        "waited",
        "watched",
    )

    def __init__(self, number: int, addr: str, laddr: str, now: float, anonymous: Principal = EVERYONE) -> None:
        self.id = number
        self.addr = addr
        self.laddr = laddr
        self.encrypted = False
        self.certificate: PeerCertificate | None = None
        self.chain: PeerChain | None = None
        self.created_at = now
        self.last_at = now
        self.last_command = ""
        self.commands = 0
        self.received = 0  # bytes
        self.sent = 0  # bytes
        self._over_limit = False
        self._mute = 0
        self._transaction: CommandQueue | None = None
        self.executing = False
        self._subscribed = False
        self._tracking = False
        self._restricted = False
        self.plain = True
        self.queues = False
        self.closing = False
        self.anonymous = anonymous
        self.charged = 0  # bytes
        self.flushing = False
        self.logging_in = False
        self.guard: User | None = None
        self.waited = 0.0
        self.reset()

    def reset(self) -> None:
        """Set what RESET sets, as for a new connection."""
        self.principal = self.anonymous
        self.protocol = RESP2
        self.name = ""
        self.lib_name = ""
        self.lib_ver = ""
        self.deferring = False
        self.forwards = True
        self.spans = False
        self.identified = False
        self.no_evict = False
        self.no_touch = False
        self.mute = 0
        self.end_transaction()
        self.subscribed = False
        self.tracking = False  # its options are in `Tracking`

    def end_transaction(self) -> None:
        """Drop what was queued and is watched."""
        self.transaction = None
        self.watched: dict[bytes, Watched] = {}

    @property
    def principal(self) -> Principal:
        return self._principal

    @principal.setter
    def principal(self, principal: Principal) -> None:
        self._principal = principal
        self.guard = principal.guard
        self.restricted = not principal.plain

    @property
    def is_forwarder(self) -> bool:
        """True if another node has admitted its commands, and sends them on."""
        return self.identified and self.name == FORWARDER_NAME

    @property
    def resp3(self) -> bool:
        return self.protocol == RESP3

    # ---- the modes, on which `plain` depends; not descriptors, which a compiled class cannot have

    @property
    def over_limit(self) -> bool:
        return self._over_limit

    @over_limit.setter
    def over_limit(self, value: bool) -> None:
        self._over_limit = value
        self._update_plain()

    @property
    def mute(self) -> int:
        return self._mute

    @mute.setter
    def mute(self, value: int) -> None:
        self._mute = value
        self._update_plain()

    @property
    def transaction(self) -> CommandQueue | None:
        return self._transaction

    @transaction.setter
    def transaction(self, value: CommandQueue | None) -> None:
        self._transaction = value
        self._update_plain()

    @property
    def subscribed(self) -> bool:
        return self._subscribed

    @subscribed.setter
    def subscribed(self, value: bool) -> None:
        self._subscribed = value
        self._update_plain()

    @property
    def tracking(self) -> bool:
        return self._tracking

    @tracking.setter
    def tracking(self, value: bool) -> None:
        self._tracking = value
        self._update_plain()

    @property
    def restricted(self) -> bool:
        return self._restricted

    @restricted.setter
    def restricted(self, value: bool) -> None:
        self._restricted = value
        self._update_plain()

    def _update_plain(self) -> None:
        other = self._over_limit or self._mute or self._subscribed or self._tracking or self._restricted
        self.plain = not other and self._transaction is None
        self.queues = not other and self._transaction is not None
