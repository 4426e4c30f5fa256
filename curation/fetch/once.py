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
    """A value, how long it may be used, seconds, and what it takes of a cache's capacity."""

    value: ValueT
    ttl_s: float
    weight: int = 1


class _Entry(Generic[ValueT]):
    def __init__(self) -> None:
        self.future: Future[ValueT] = Future()
        self.until = math.inf  # while it is being made
        self.weight = 1


class Once(Generic[KeyT, ValueT]):
    """A bounded cache; askers of a key that is being made wait for it.

    Args:
        capacity: most weight kept; the key that was not used for longest goes first.
        is_in_background: make values in a thread of their own, which an asker with a timeout can
            leave behind.
    """

    def __init__(self, capacity: int, *, is_in_background: bool = False) -> None:
        self._capacity = capacity
        self._is_in_background = is_in_background
        self._entries: OrderedDict[KeyT, _Entry[ValueT]] = OrderedDict()
        self._weight = 0
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
                self._weight += 1 - (0 if entry is None else entry.weight)
                entry = self._entries[key] = _Entry()
            self._entries.move_to_end(key)
            self._shrink()
        if is_new and self._is_in_background:
            worker = threading.Thread(
                target=self._fill, args=(key, entry, make), name="make-once", daemon=True
            )
            try:
                worker.start()
            except RuntimeError:  # the system gives no more threads: then in this one
                self._fill(key, entry, make)
        elif is_new:
            self._fill(key, entry, make)
        return entry.future.result(timeout_s)

    def _fill(self, key: KeyT, entry: _Entry[ValueT], make: Callable[[], Made[ValueT]]) -> None:
        try:
            made = make()
        except BaseException as error:
            entry.until = 0.0
            entry.future.set_exception(error)  # nobody may wait for ever
            raise
        with self._lock:
            entry.until = time.monotonic() + made.ttl_s
            if self._entries.get(key) is entry:
                self._weight += made.weight - entry.weight
                entry.weight = made.weight
                self._shrink()
        entry.future.set_result(made.value)

    def _shrink(self) -> None:
        while self._weight > self._capacity:
            _, entry = self._entries.popitem(last=False)
            self._weight -= entry.weight
