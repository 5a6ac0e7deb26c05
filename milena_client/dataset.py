"""Coordination. A map-style dataset of PyTorch: its items are objects, and a batch of them is one call.

    from torch.utils.data import DataLoader

    images = MilenaDataset(client, keys, transform=lambda key, value: decode(value))
    DataLoader(images, batch_size=256, num_workers=4)

It follows PyTorch's protocol and does not import it. Workers may be forked, spawned or come from a fork server:
each has connections of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from milena_client.core.operations import not_found
from milena_client.sync.client import Milena

T = TypeVar("T")


class MilenaDataset(Generic[T]):
    """The objects of `keys`, in this order, read by `client`.

    `transform`: returns the item for a key and its value; None: the value is the item. For workers that are not
    forked it has to be picklable, as a function of a module is.

    Items are not kept here; values that are read again come from the memory of the nodes.
    """

    def __init__(
        self, client: Milena, keys: Sequence[str], transform: Callable[[str, bytes], T] | None = None
    ) -> None:
        self._client = client
        self.keys = keys
        self._transform = transform

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.keys)

    def __getitem__(self, index: int) -> T:
        """Return an item. Raises KeyNotFound if there is no such object."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[T]:
        """Return the items of a batch, in the order of `indices`, which may repeat.

        All values are requested together, in one command for each node and 128 keys. Raises KeyNotFound if one does
        not exist, BatchError, with the values of the others, if some cannot be read.
        """
        keys = [self.keys[index] for index in indices]
        values = self._client.get_many(keys)
        return [self._item(key, values.get(key)) for key in keys]

    def _item(self, key: str, value: bytes | None) -> T:
        if value is None:
            raise not_found(key)
        return cast(T, value) if self._transform is None else self._transform(key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._client, self.keys, self._transform)
