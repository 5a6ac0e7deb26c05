"""Coordination. Frees room in the journal of a full disk.

LMDB copies pages on write, so removing a record needs new pages before it frees any: on a full disk even a removal
fails. So the file contains ballast, which is removed first; its pages can be used again from the second commit on.
If they do not suffice for many removals at once, they do for few, each of which frees some.

There is room again when the ballast fits in together with MORE_BYTES: the ballast alone would only fill the pages
that it left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from milena_cache.journal.disk import Disk

BALLAST_BYTES = 2**18
MORE_BYTES = 2**16
# Deferred operations of one commit: each runs on the event loop, which must not block for long.
MAX_DEFERRED = 4096

DeferredOperation = Callable[[Disk], None]


class Room:
    """Makes room step by step, each step a commit.

    do: commits one operation; True if that succeeded.
    do_deferred: commits at most so many deferred operations; True if that succeeded.
    number_deferred: returns how many deferred operations wait.
    """

    def __init__(
        self,
        do: Callable[[DeferredOperation], Awaitable[bool]],
        do_deferred: Callable[[int], Awaitable[bool]],
        number_deferred: Callable[[], int],
    ) -> None:
        self._do = do
        self._do_deferred = do_deferred
        self._number_deferred = number_deferred
        self._ballast = True

    async def make(self) -> bool:
        """Remove the ballast, run the deferred operations, and add the ballast again; True if there is room."""
        if self._ballast:
            self._ballast = not (await self._do(throw_ballast) and await self._do(throw_ballast))
        portion = 1
        while self._number_deferred():
            if await self._do_deferred(portion):
                portion = min(2 * portion, MAX_DEFERRED)
            elif portion > 1:
                portion = 1
            else:
                return False
        self._ballast = await self._do(take_ballast_and_more)
        return self._ballast and await self._do(throw_more)


def take_ballast(disk: Disk) -> None:
    disk.set_metadata("ballast", "." * BALLAST_BYTES)


def take_ballast_and_more(disk: Disk) -> None:
    take_ballast(disk)
    disk.set_metadata("more", "." * MORE_BYTES)


def throw_ballast(disk: Disk) -> None:
    disk.set_metadata("ballast", "")


def throw_more(disk: Disk) -> None:
    disk.set_metadata("more", "")
