"""The regions on which systems differ most, kept with their pixels for the report."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

DEFAULT_CAPACITY = 48


class Fate(StrEnum):
    """What became of a word under the systems, against the reference row `resize only`."""

    LOST = "lost"
    """Read rightly in the reference, not by some system."""
    GAINED = "gained"
    """Read wrongly in the reference, rightly by some system."""
    OTHER = "other"
    """Right under all, wrong under all, or a region that is not read."""


class Highlight(NamedTuple):
    """One region as every system gives it, the original first.

    crops: (h, w, 3) uint8, one per system. captions: one per system.
    change: largest minus smallest score over the systems, the original left out.
    verdicts: whether each system's word was read exactly; empty for regions that are not read.
    """

    title: str
    image_id: str
    crops: tuple[Image, ...]
    captions: tuple[str, ...]
    change: float
    verdicts: tuple[bool, ...] = ()

    @property
    def fate(self) -> Fate:
        """Against `resize only`; where that is the last row, its own against the original."""
        if len(self.verdicts) < 2:
            return Fate.OTHER
        first = 1 if len(self.verdicts) > 2 else 0
        reference, others = self.verdicts[first], self.verdicts[first + 1 :]
        if reference:
            return Fate.OTHER if all(others) else Fate.LOST
        return Fate.GAINED if any(others) else Fate.OTHER


@dataclass(kw_only=True, slots=True)
class Highlights:
    """Keeps the `capacity` regions of each fate with the largest change; of equals the earlier."""

    capacity: int = DEFAULT_CAPACITY
    _heaps: dict[Fate, list[tuple[float, int, Highlight]]] = field(
        default_factory=lambda: {fate: [] for fate in Fate}
    )
    _added: int = 0

    def add(self, highlight: Highlight) -> None:
        """Offer one region; its crops are copied only if it is kept."""
        self._added += 1
        heap, entry = self._heaps[highlight.fate], (highlight.change, -self._added)
        if len(heap) == self.capacity and entry <= heap[0][:2]:
            return
        kept = highlight._replace(crops=tuple(crop.copy() for crop in highlight.crops))
        heapq.heappush(heap, (*entry, kept))
        if len(heap) > self.capacity:
            heapq.heappop(heap)

    def largest_first(self) -> list[Highlight]:
        """What was kept, largest change first."""
        kept = [entry for heap in self._heaps.values() for entry in heap]
        return [entry[2] for entry in sorted(kept, key=lambda e: e[:2], reverse=True)]
