"""Politeness towards each host: how many connections at a time, how often, and when to leave it.

A host here is a name with a port: what one server answers for. All threads of a worker share these
counts; each worker has its own.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from annotations_schema.codes import FailureCode
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError

_FAILURES_UNTIL_DOWN = 5
_DOWN_S = 60.0
_MANY_HOSTS = 4096

RowT = TypeVar("RowT")


class Host:
    """What is known of one host."""

    def __init__(self, connections: int) -> None:
        self.turns = threading.Semaphore(connections)
        self.users = 0
        self.next_at = 0.0
        self._failures = 0
        self._down_until = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing worth keeping is known of it."""
        now = time.monotonic()
        return self.users == 0 and self.next_at <= now and self._down_until <= now

    def check_up(self) -> None:
        """Called before a connection is opened.

        Raises:
            FetchError: CONNECT_FAILED, final: the host did not accept the last connections.
        """
        remaining = self._down_until - time.monotonic()
        if remaining > 0:
            words = f"{self._failures} connections in a row failed; no more for {remaining:.0f} s"
            raise FetchError(FailureCode.CONNECT_FAILED, words, is_final=True)

    def accepted(self) -> None:
        """A connection was opened."""
        self._failures = 0

    def refused(self) -> None:
        """A connection could not be opened."""
        self._failures += 1
        if self._failures >= _FAILURES_UNTIL_DOWN:
            self._down_until = time.monotonic() + _DOWN_S


class Hosts:
    """Turns at hosts.

    Args:
        connections: most requests at a time to one host.
        requests_per_s: most requests a second to one host; None for no limit.
        patience_s: longest wait for a turn, seconds.
    """

    def __init__(self, connections: int, requests_per_s: float | None, patience_s: float) -> None:
        self._connections = connections
        self._pause_s = 0.0 if requests_per_s is None else 1.0 / requests_per_s
        self._patience_s = patience_s
        self._hosts: dict[str, Host] = {}
        self._forget_at = _MANY_HOSTS
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, name: str, deadline: Deadline) -> Iterator[Host]:
        """Hold one of a host's connections; the wait for it does not count for the deadline.

        Raises:
            FetchError: DEADLINE_EXCEEDED, final: no turn within the patience.
        """
        host = self._enter(name)
        try:
            self._wait_for_connection(host, deadline)
            try:
                self._wait_for_rate(host, deadline)
                yield host
            finally:
                host.turns.release()
        finally:
            with self._lock:
                host.users -= 1

    def _enter(self, name: str) -> Host:
        with self._lock:
            if len(self._hosts) > self._forget_at:
                self._hosts = {key: host for key, host in self._hosts.items() if not host.is_idle}
                # Under a low rate many stay: looking at all of them each time would take ages.
                self._forget_at = max(_MANY_HOSTS, 2 * len(self._hosts))
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = Host(self._connections)
            host.users += 1
            return host

    def _wait_for_connection(self, host: Host, deadline: Deadline) -> None:
        if host.turns.acquire(blocking=False):
            return
        with deadline.paused():
            if not host.turns.acquire(timeout=self._patience_s):
                raise self._no_turn()

    def _wait_for_rate(self, host: Host, deadline: Deadline) -> None:
        if not self._pause_s:
            return
        with self._lock:
            now = time.monotonic()
            wait_s = max(host.next_at - now, 0.0)
            if wait_s > self._patience_s:
                raise self._no_turn()
            host.next_at = now + wait_s + self._pause_s
        with deadline.paused():
            time.sleep(wait_s)

    def _no_turn(self) -> FetchError:
        words = f"no turn at its host within {self._patience_s:g} s: the host has a limit"
        return FetchError(FailureCode.DEADLINE_EXCEEDED, words, is_final=True)


def spread(rows: Iterable[RowT], host_of: Callable[[RowT], str]) -> list[RowT]:
    """The rows in an order that takes the hosts in turn, each host's rows in their own order.

    A list sorted by host would make every thread wait for the same server.
    """
    seen: Counter[str] = Counter()

    def turn_of(row: RowT) -> int:
        host = host_of(row)
        seen[host] += 1
        return seen[host]

    return sorted(rows, key=turn_of)
