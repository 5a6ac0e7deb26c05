"""Pure. What a connection has said about itself, and what is known of it. Commands read and change it."""

from __future__ import annotations

from milena_common.resp.encoding import RESP2, RESP3


class Session:
    """One connection's state. `addr` and `laddr` are host:port of the client and of the door; times are monotonic
    seconds. `deferring`: answers that have to wait come later, as pushes. `closing`: it ends after this answer.
    `subscribed`: it is told of changed keys on the channel __redis__:invalidate.
    `mute`: of how many commands, the present one included, there is no answer; negative: of all.
    `in_transaction`: after MULTI, every command is refused up to EXEC or DISCARD; `transaction_rejected`: one was.
    `waited`: seconds since the bytes of the command that is being begun were read, 0 if they were read just now.
    """

    __slots__ = (
        "addr",
        "closing",
        "commands",
        "created_at",
        "deferring",
        "id",
        "in_transaction",
        "laddr",
        "last_at",
        "last_command",
        "lib_name",
        "lib_ver",
        "mute",
        "name",
        "no_evict",
        "no_touch",
        "protocol",
        "received",
        "sent",
        "subscribed",
        "tracking",
        "transaction_rejected",
        "waited",
    )

    def __init__(self, number: int, addr: str, laddr: str, now: float) -> None:
        self.id = number
        self.addr = addr
        self.laddr = laddr
        self.created_at = now
        self.last_at = now
        self.last_command = ""
        self.commands = 0
        self.received = 0  # bytes
        self.sent = 0  # bytes
        self.closing = False
        self.waited = 0.0
        self.reset()

    def reset(self) -> None:
        """As a new connection is; also what RESET does."""
        self.protocol = RESP2
        self.name = ""
        self.lib_name = ""
        self.lib_ver = ""
        self.deferring = False
        self.no_evict = False
        self.no_touch = False
        self.mute = 0
        self.end_transaction()
        self.subscribed = False
        # Whether what it reads is tracked; the table of `tracking` has how.
        self.tracking = False

    def end_transaction(self) -> None:
        """Commands are carried out again."""
        self.in_transaction = False
        self.transaction_rejected = False

    @property
    def resp3(self) -> bool:
        return self.protocol == RESP3
