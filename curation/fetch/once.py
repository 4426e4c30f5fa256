"""Values that are made once per key, however many threads ask, and kept for a time."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Made(NamedTuple, Generic[ValueT]):
    """A value, and how long it may be used, seconds."""

    value: ValueT
    ttl_s: float


class _Entry(Generic[ValueT]):
    def __init__(self) -> None:
        self.future: Future[ValueT] = Future()
        self.until = math.inf  # while it is being made


class Once(Generic[KeyT, ValueT]):
    """A bounded cache; askers of a key that is being made wait for it.

    Args:
        capacity: most keys kept; the one that was not used for longest goes first.
        is_in_background: make values in a thread of their own, which an asker with a timeout can
            leave behind.
    """

    def __init__(self, capacity: int, *, is_in_background: bool = False) -> None:
        self._capacity = capacity
        self._is_in_background = is_in_background
        self._entries: OrderedDict[KeyT, _Entry[ValueT]] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, key: KeyT, make: Callable[[], Made[ValueT]], timeout_s: float | None = None
    ) -> ValueT:
        """The value of a key.

        Raises:
            TimeoutError: it was not made in time; it may be for the next asker.
            Exception: what `make` raised; it is not kept.
        """
        with self._lock:
            entry = self._entries.get(key)
            is_new = entry is None or entry.until <= time.monotonic()
            if entry is None or is_new:
                entry = self._entries[key] = _Entry()
            self._entries.move_to_end(key)
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        if is_new and self._is_in_background:
            worker = threading.Thread(
                target=_fill, args=(entry, make), name="make-once", daemon=True
            )
            worker.start()
        elif is_new:
            _fill(entry, make)
        return entry.future.result(timeout_s)


def _fill(entry: _Entry[ValueT], make: Callable[[], Made[ValueT]]) -> None:
    try:
        value, ttl_s = make()
    except BaseException as error:
        entry.until = 0.0
        entry.future.set_exception(error)  # nobody may wait for ever
        raise
    entry.until = time.monotonic() + ttl_s
    entry.future.set_result(value)
