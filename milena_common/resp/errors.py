"""Pure. Converts Milena's errors to error lines of the Redis protocol, and back.

An error's first word is its class's code word: stable, for programs. The rest is for people. Redis's own code words
are used where they exist (MOVED, CLUSTERDOWN, ERR). In Redis's MOVED an IPv6 address has no brackets: clients take
the text before the last colon as the host.
"""

from __future__ import annotations

import re
from math import ceil

from milena_common.api import errors
from milena_common.api.errors import InternalError, MilenaError, Moved, NodeLost, NoNodes, RateLimited, TryAgain

_RETRY_AFTER = re.compile(r"retry-after-ms=(\d{1,9}) ?(.*)", re.DOTALL)
_MOVED = re.compile(r"(\d{1,5}) (\S*):(\d{1,5})")
# Errors with more content than a line can carry are raised where they occur, and never sent.
_LOCAL = (errors.BatchError, errors.ConfigError, errors.KeyNotFound)
_BY_WORD = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MilenaError) and kind not in (*_LOCAL, MilenaError)
}
# Redis's code word for a failed AUTH.
_BY_WORD["WRONGPASS"] = errors.Unauthenticated


def to_resp(error: MilenaError) -> str:
    """Return the line for `error`, without the minus sign and the line end."""
    text = " ".join(str(error).split())
    if isinstance(error, Moved):
        host, _, port = error.address.rpartition(":")
        return f"MOVED {error.slot} {host.strip('[]')}:{port}"
    if isinstance(error, RateLimited | TryAgain) or (isinstance(error, NoNodes) and error.retry_after):
        text = f"retry-after-ms={ceil(error.retry_after * 1000)} {text}"
    return f"{error.code} {text}"


def over_kind(error: Moved, encrypted: bool) -> Moved | NodeLost:
    """Return `error` for a caller whose connection is encrypted, or is not: with an address of the same kind."""
    if encrypted and error.tls_address:
        return Moved(error.slot, error.tls_address)
    if not encrypted and error.address != error.tls_address:
        return error
    kind = "with TLS (RESP_TLS_ADDR)" if encrypted else "without TLS (RESP_ADDR)"
    return NodeLost(
        f"the node at {error.address}, which owns slot {error.slot}, does not serve the Redis protocol {kind}; "
        "nothing was done"
    )


def from_resp(line: str) -> MilenaError:
    """Return the error of `line`, without its minus sign; InternalError for an unknown code word."""
    word, _, text = line.partition(" ")
    kind = _BY_WORD.get(word)
    if kind is None:
        return InternalError(line)
    if kind is Moved:
        match = _MOVED.fullmatch(text)
        if match is None:
            return InternalError(line)
        host = match[2].strip("[]")
        return Moved(int(match[1]), f"[{host}]:{match[3]}" if ":" in host else f"{host}:{match[3]}")
    if kind is RateLimited or kind is TryAgain or kind is NoNodes:
        match = _RETRY_AFTER.fullmatch(text)
        return kind(match[2], int(match[1]) / 1000) if match else kind(text)
    return kind(text)
