"""What worker processes do. They import this module, and so it imports little."""

from __future__ import annotations

from typing import Any


def read(fs: Any, path: str) -> tuple[bytes, list[str], bytes]:
    """Read `path` in three ways."""
    with fs.open(path, "rb") as file:
        return fs.cat_file(path), fs.ls(path, detail=False), file.read(5)


def decoded(key: str, value: bytes) -> tuple[str, int]:
    """Return an item of a dataset."""
    return key, int(value)


def work(dataset: Any, batches: Any, results: Any) -> None:
    """As a worker of PyTorch's DataLoader: it has the dataset, and gets the indices of batches."""
    while (indices := batches.get()) is not None:
        results.put(dataset.__getitems__(indices))
