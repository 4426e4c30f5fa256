"""The regions on which systems differ most, kept with their pixels for the report."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

DEFAULT_CAPACITY = 48


class Highlight(NamedTuple):
    """One region as every system gives it.

    crops: (h, w, 3) uint8, one per system. captions: one per system.
    change: largest minus smallest score over the systems, the original left out.
    """

    title: str
    image_id: str
    crops: tuple[Image, ...]
    captions: tuple[str, ...]
    change: float


@dataclass(kw_only=True, slots=True)
class Highlights:
    """Keeps the `capacity` regions with the largest change; of equals the earlier."""

    capacity: int = DEFAULT_CAPACITY
    _heap: list[tuple[float, int, Highlight]] = field(default_factory=list)
    _added: int = 0

    def add(self, highlight: Highlight) -> None:
        """Offer one region; its crops are copied only if it is kept."""
        self._added += 1
        entry = (highlight.change, -self._added)
        if len(self._heap) == self.capacity and entry <= self._heap[0][:2]:
            return
        kept = highlight._replace(crops=tuple(crop.copy() for crop in highlight.crops))
        heapq.heappush(self._heap, (*entry, kept))
        if len(self._heap) > self.capacity:
            heapq.heappop(self._heap)

    def largest_first(self) -> list[Highlight]:
        """What was kept, largest change first."""
        return [entry[2] for entry in sorted(self._heap, key=lambda e: e[:2], reverse=True)]
