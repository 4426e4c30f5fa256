"""Idle connections, kept for the next request to the same origin."""

from __future__ import annotations

import select
import threading
import time
from typing import NamedTuple

from curation.fetch.connection import Connection, Origin

_IDLE_S = 15.0  # common servers close after 5 to 75


class _Idle(NamedTuple):
    origin: Origin
    connection: Connection
    since: float


class Pool:
    """A few idle connections; those of a host are never more than its turns.

    Args:
        capacity: most connections kept, of all origins; the oldest is closed first.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._idle: list[_Idle] = []  # oldest first
        self._lock = threading.Lock()

    def take(self, origin: Origin) -> Connection | None:
        """The connection that was put last, if the server has kept it open."""
        while (idle := self._newest(origin)) is not None:
            is_fresh = time.monotonic() - idle.since < _IDLE_S
            if is_fresh and not _has_ended(idle.connection):
                return idle.connection
            idle.connection.close()
        return None

    def put(self, origin: Origin, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            self._idle.append(_Idle(origin, connection, time.monotonic()))
            oldest = self._idle.pop(0) if len(self._idle) > self._capacity else None
        if oldest is not None:
            oldest.connection.close()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.connection.close()

    def _newest(self, origin: Origin) -> _Idle | None:
        with self._lock:
            for position in range(len(self._idle) - 1, -1, -1):
                if self._idle[position].origin == origin:
                    return self._idle.pop(position)
        return None


def _has_ended(connection: Connection) -> bool:
    """Whether the server closed it, or sent what nobody asked for."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
