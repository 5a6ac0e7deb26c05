"""Coordination. Making room on a full disk.

To take a record out of the file needs new pages before it frees any. So the file has ballast, which is thrown off
first; its pages can be used again from the second commit on. If they do not suffice for many removals at once, they
do for few, each of which frees some.

There is room again when the ballast fits in together with something more: it alone would only be back on the pages
that it left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from milena_cache.journal.disk import Disk

BALLAST_BYTES = 2**18
MORE_BYTES = 2**16
# In one commit, so that the event loop does not stand still for them.
MAX_DEFERRED = 4096

DeferredOperation = Callable[[Disk], None]


class Room:
    """`do` commits one chore, `do_waiting` so many of those that wait; both tell whether the commit was made."""

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
        """Throw off the ballast, do the chores, and take ballast in again; whether there is room for more."""
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
