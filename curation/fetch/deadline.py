"""A point in time that several waits share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_LEAST_TIMEOUT_S = 1e-3


class Deadline:
    """A point in time, `seconds` from its making on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @classmethod
    def at(cls, moment: float) -> Deadline:
        """A deadline at a moment of the monotonic clock."""
        return cls(moment - time.monotonic())

    @property
    def moment(self) -> float:
        """When it ends, on the monotonic clock."""
        return self._end

    def remaining_s(self) -> float:
        """Seconds left; negative when it has passed."""
        return self._end - time.monotonic()

    def timeout_s(self) -> float:
        """Seconds left, as a socket timeout.

        Raises:
            TimeoutError: none is left.
        """
        remaining = self.remaining_s()
        if remaining <= 0:
            raise TimeoutError("the total deadline has passed")
        return max(remaining, _LEAST_TIMEOUT_S)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time within the `with` block does not count."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - started
