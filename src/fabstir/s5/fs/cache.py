"""A cache of recent reads, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """The last used values, at most `max_bytes` of them as their owner weighs them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def num_bytes(self) -> int:
        """The weight of what is kept."""
        return self._num_bytes

    def get(self, key: K) -> V | None:
        """The value, which is now the last used one; None: it is not kept."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, num_bytes: int) -> None:
        """Keep a value; the ones that were not used for the longest time make room."""
        self._num_bytes += num_bytes - self._values.pop(key, (None, 0))[1]
        self._values[key] = value, num_bytes
        while self._num_bytes > self._max_bytes:
            _, (_, freed) = self._values.popitem(last=False)
            self._num_bytes -= freed
