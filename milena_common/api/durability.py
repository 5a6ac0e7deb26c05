"""Pure. The durability classes of a write, and its condition.

    back      the node's journal has it on disk; S3 has it soon
    through   S3 has it
    memory    the node's memory has it, and S3 has it soon: a node that dies in between loses it

A condition names the object that the writer has seen, so that it does not overwrite another writer's change.
Client, router and node validate both here, before anything is sent or done.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from milena_common.api.errors import InvalidRequest

Durability: TypeAlias = Literal["back", "through", "memory"]

BACK: Final = "back"
THROUGH: Final = "through"
MEMORY: Final = "memory"
DURABILITIES: Final[tuple[Durability, ...]] = (BACK, THROUGH, MEMORY)

ANY_OBJECT: Final = "*"
MAX_ETAG = 1024


def check_durability(text: str) -> Durability | None:
    """Return the class that `text` names; None for "", the node's default. Raises InvalidRequest."""
    for known in DURABILITIES:
        if text == known:
            return known
    if text:
        raise InvalidRequest(f"durability: got {text[:80]!r}; allowed: {', '.join(DURABILITIES)}")
    return None


def check_condition(if_match: str, if_none_match: str) -> None:
    """Raise InvalidRequest unless at most one condition is given and it is valid; "" is no condition.

    `if_match` is an ETag as a response had it, quotes included; `if_none_match` can only be "*".
    """
    if if_match and if_none_match:
        raise InvalidRequest("if_match, if_none_match: both are given; allowed is one of them")
    if if_none_match not in ("", ANY_OBJECT):
        raise InvalidRequest(
            f"if_none_match: got {if_none_match[:80]!r}; "
            f"allowed: {ANY_OBJECT}, to write only where there is no object"
        )
    # The ETag becomes part of a header of a request to S3.
    if if_match == ANY_OBJECT or len(if_match) > MAX_ETAG or not (if_match.isascii() and if_match.isprintable()):
        raise InvalidRequest(
            f"if_match: got {if_match[:80]!r}; allowed: the ETag of one object, as in a response, with its quotes"
        )
