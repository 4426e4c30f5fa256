"""What a shard's receipt counts: rows, regions, milliseconds by part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Tally:
    """Counts and times of one thread; `add` joins those of several."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._nanoseconds: Counter[str] = Counter()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to `part`."""
        started = time.perf_counter_ns()
        try:
            yield
        finally:
            self._nanoseconds[part] += time.perf_counter_ns() - started

    def add(self, other: Tally) -> None:
        """Join the counts and times of another."""
        self.counts.update(other.counts)
        self._nanoseconds.update(other._nanoseconds)

    def as_counts(self) -> dict[str, int]:
        """Counts and times as integers; times end in `_ms`."""
        times = {f"{part}_ms": spent // 1_000_000 for part, spent in self._nanoseconds.items()}
        return {**self.counts, **times}
