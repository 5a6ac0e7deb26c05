"""Pure. The options of SET and GETEX, in any order and in upper or lower case.

The combinations that exclude each other, and the error that is found first, are those of Redis (`src/t_string.c`:
parseExtendedStringArgumentsOrReply). DURABILITY, RECEIPT and WITHIN are Milena's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from milena_cache.objects.write_request import Ack
from milena_cache.servers.resp.decisions.timestamps import expiry_in_ms
from milena_common.api.durability import THROUGH, Durability, check_durability
from milena_common.api.errors import MilenaError
from milena_common.forwarding.numbered_keys import end_of_pairs
from milena_common.resp.redis_replies import SYNTAX, CommandError

# By option: True if its number is in seconds (else milliseconds), and True if it is a timestamp (else a duration).
_EXPIRY_OPTIONS = {
    b"EX": (True, False),
    b"PX": (False, False),
    b"EXAT": (True, True),
    b"PXAT": (False, True),
}

# Options of SET by which its effect or its reply depends on the existing object.
DEPENDS = frozenset((b"NX", b"XX", b"GET", b"KEEPTTL", b"IFEQ", b"IFNE"))


# Options of SET that MSETEX does not have.
_OF_SET_ALONE = frozenset((b"GET", b"IFEQ", b"IFNE", b"DURABILITY", b"RECEIPT", b"WITHIN"))


@dataclass(slots=True)
class Options:
    """The options of a command.

    expiry_option: EX, PX, EXAT or PXAT; empty if none is given
    number: the argument of that option
    only_if_absent, only_if_there: NX, XX
    only_if_equal, only_if_other: the arguments of IFEQ and IFNE; None if they are not given
    get, keep_ttl, persist: GET, KEEPTTL, PERSIST
    durability: the argument of DURABILITY; None if it is not given
    receipt: RECEIPT
    timeout, deadline: the arguments of WITHIN; empty if it is not given
    """

    expiry_option: bytes = b""
    number: bytes = b""
    only_if_absent: bool = False
    only_if_there: bool = False
    only_if_equal: bytes | None = None
    only_if_other: bytes | None = None
    get: bool = False
    keep_ttl: bool = False
    persist: bool = False
    durability: Durability | None = None
    receipt: bool = False
    timeout: bytes = b""
    deadline: bytes = b""

    @property
    def depends(self) -> bool:
        """True if the effect or the reply of the SET depends on the existing object."""
        return self.get or self.keep_ttl or self.conditional

    def allow(self, before: bytes | None) -> bool:
        """True if a SET may replace `before`, None for no object."""
        if self.only_if_equal is not None:
            return before == self.only_if_equal
        if self.only_if_other is not None:
            return before != self.only_if_other
        return not (self.only_if_absent if before is not None else self.only_if_there)

    @property
    def conditional(self) -> bool:
        """True if a condition is given that may keep the SET from having an effect."""
        return (
            self.only_if_absent
            or self.only_if_there
            or self.only_if_equal is not None
            or self.only_if_other is not None
        )

    def expires_ms(self, command: str, now_ms: int) -> int:
        """Return the expiry in milliseconds since 1970; `expiry_option` must be given. Raises CommandError."""
        seconds, absolute = _EXPIRY_OPTIONS[self.expiry_option]
        return expiry_in_ms(self.number, command, now_ms, seconds=seconds, absolute=absolute, positive=True)


def set_options(argv: list[bytes], at: int = 3) -> Options:
    """Parse the options of `SET key value …`, which begin at a position.

    Raises CommandError, and InvalidRequest for an unknown durability.
    """
    options = Options()
    size = len(argv)
    while at < size:
        option = argv[at].upper()
        at += 1
        if option == b"NX" and (options.only_if_absent or not options.conditional):
            options.only_if_absent = True
        elif option == b"XX" and (options.only_if_there or not options.conditional):
            options.only_if_there = True
        elif option in (b"IFEQ", b"IFNE") and not options.conditional and at < size:
            if option == b"IFEQ":
                options.only_if_equal = argv[at]
            else:
                options.only_if_other = argv[at]
            at += 1
        elif option == b"GET" and not options.receipt:
            options.get = True
        elif option == b"KEEPTTL" and not options.expiry_option:
            options.keep_ttl = True
        elif (
            option in _EXPIRY_OPTIONS
            and options.expiry_option in (b"", option)
            and not options.keep_ttl
            and at < size
        ):
            options.expiry_option, options.number = option, argv[at]
            at += 1
        elif option == b"DURABILITY" and at < size:
            options.durability = check_durability(argv[at].decode(errors="replace").lower())
            at += 1
        elif option == b"RECEIPT" and not options.get:
            options.receipt = True
        elif option == b"WITHIN" and at + 1 < size:
            options.timeout, options.deadline = argv[at], argv[at + 1]
            at += 2
        else:
            raise CommandError(SYNTAX)
    return options


def receipt_of(ack: Ack, address: str) -> bytes:
    """Return the reply to a SET with RECEIPT by the node at `address`: the class that was reached, and the node.

    The ETag is that of the value, so the caller knows it, except after a write through to S3, which may have given
    another one.
    """
    etag = f" {ack.etag}" if ack.durability == THROUGH else ""
    return f"+{ack.durability} {address}{etag}\r\n".encode()


def plain_options(argv: list[bytes]) -> Options | None:
    """Return the options of a SET that are valid, and that do not depend on the existing object; else None."""
    try:
        options = set_options(argv)
    except (CommandError, MilenaError):
        return None
    return None if options.depends else options


def msetex_options(argv: list[bytes]) -> tuple[int, Options]:
    """Return the position behind the last value of `MSETEX number key value …`, and the options.

    Raises CommandError, also for an option that only SET has.
    """
    end = end_of_pairs(argv)
    if not _OF_SET_ALONE.isdisjoint(word.upper() for word in argv[end:]):
        raise CommandError(SYNTAX)
    return end, set_options(argv, end)


def getex_options(argv: list[bytes]) -> Options:
    """Parse the options of `GETEX key …`. Raises CommandError."""
    options = Options()
    at, size = 2, len(argv)
    while at < size:
        option = argv[at].upper()
        at += 1
        if option == b"PERSIST" and not options.expiry_option:
            options.persist = True
        elif (
            option in _EXPIRY_OPTIONS
            and options.expiry_option in (b"", option)
            and not options.persist
            and at < size
        ):
            options.expiry_option, options.number = option, argv[at]
            at += 1
        else:
            raise CommandError(SYNTAX)
    return options
