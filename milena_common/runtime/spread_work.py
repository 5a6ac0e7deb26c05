"""Coordination. Work on many items, a few of them in an iteration of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class SpreadWork(Generic[T]):
    """Calls `act` with items, in order, with at most `at_once` of them in one iteration of the event loop.

    What else needs the loop runs between them. Until its turn an item may change, so `act` has to look again.
    """

    def __init__(self, act: Callable[[T], None], at_once: int) -> None:
        self._act = act
        self._at_once = at_once
        self._items: deque[T] = deque()
        self._scheduled = False

    def spread(self, items: Iterable[T]) -> None:
        """Work on `items`, the first of them now unless others are under way; those not begun are replaced."""
        self._items = deque(items)
        if not self._scheduled:
            self._go_on()

    def _go_on(self) -> None:
        self._scheduled = False
        try:
            for _ in range(min(self._at_once, len(self._items))):
                self._act(self._items.popleft())
        finally:
            if self._items:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._go_on)
