"""Pure. The principals: in whose name requests are made.

There is one, `default`, without a password: access is limited by the network. A connection has it from its start,
as at a Redis server without access control.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, or a process, that makes requests. `name` is without spaces and control characters."""

    name: str


DEFAULT = Principal("default")


def named(name: bytes) -> Principal | None:
    """Return the principal called `name`; None if there is none."""
    return DEFAULT if name == DEFAULT.name.encode() else None
