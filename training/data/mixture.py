"""Which image is drawn at a stream position, out of sources with shares and rows with weights.

Everything is a pure function of (seed, stream position) in O(1) per position, so a stream goes on
anywhere without a scan. Sources with shares are mixed in blocks of `BLOCK` positions: each block
holds a fixed number of every source, in an order of its own, so the position that a sample has
inside its source follows from the block and a table of as many entries as there are sources.
Rows with weights are drawn by systematic sampling (Madow, 1949) over each epoch of their source:
every row comes up floor or ceil of its expected number of times, at equal weights exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from annotations_schema.errors import UsageError
from training.data.order import sample_order, uniform_numbers

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

BLOCK = 1024
"""Positions that hold every source as often as its share says, to the nearest whole number."""
_BLOCK_SEED = 0x51ED270B  # apart from the seeds of the sources, seed + number


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The images of one source that take part, and how often each is drawn."""

    indices: Int64
    """(N,) their numbers in the dataset, at least one."""
    rising: Float64 | None = None
    """(N,) running sum of the weights, scaled to end at N; None: each once an epoch."""

    @classmethod
    def of(cls, indices: Int64, weights: Float64 | None = None) -> Self:
        """A part of these images; weights (N,), not negative, not all 0, are relative."""
        if weights is None or (weights == weights[:1]).all():
            return cls(indices=indices)
        drawn = weights > 0  # the others could come up where a sum is rounded
        indices, rising = indices[drawn], np.cumsum(weights[drawn])
        return cls(indices=indices, rising=rising * (len(indices) / rising[-1]))

    def draw(self, positions: Int64, seed: int) -> Int64:
        """Images (n,) at the positions (n,) of this source."""
        num_samples = len(self.indices)
        rows = sample_order(positions, num_samples=num_samples, seed=seed)
        if self.rising is not None:
            shift = uniform_numbers(positions // num_samples, seed=seed)
            rows = np.searchsorted(self.rising, rows + shift, side="right")
            rows = np.minimum(rows, num_samples - 1)
        return self.indices[rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """What a stream draws from: parts, and how many positions of a block belong to each."""

    parts: tuple[Part, ...]
    """The sources."""
    ends: Int64
    """(S,) running sum of the positions per block of each part."""

    @classmethod
    def of(cls, indices: Int64, weights: Float64 | None = None) -> Self:
        """Images of one kind: each once an epoch, or by weight."""
        return cls(parts=(Part.of(indices, weights),), ends=np.array([BLOCK]))

    @classmethod
    def shared(cls, parts: Sequence[Part], shares: Sequence[float]) -> Self:
        """Parts with relative shares, one positive number each.

        Raises:
            UsageError: a share is too small to come up in every block.
        """
        exact = np.array(shares, dtype=np.float64) / sum(shares) * BLOCK
        counts = np.floor(exact).astype(np.int64)
        # The largest remainders get what is left; a stable sort makes ties a matter of order.
        counts[np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]] += 1
        if counts.min() < 1:
            least = shares[int(counts.argmin())]
            raise UsageError(
                f"data.weights: {least:g} of {sum(shares):g} is under 1 in {BLOCK}, the finest "
                "share that is mixed; raise it, or leave that source away"
            )
        return cls(parts=tuple(parts), ends=np.cumsum(counts))

    def __len__(self) -> int:
        """Images that take part."""
        return sum(len(part.indices) for part in self.parts)

    def draw(self, stream_positions: ArrayLike, seed: int) -> Int64:
        """Images (n,) int64, as numbers in the dataset, at stream positions (n,), >= 0."""
        positions = np.asarray(stream_positions, dtype=np.int64)
        if len(self.parts) == 1:
            return self.parts[0].draw(positions, seed)
        slots = sample_order(positions, num_samples=BLOCK, seed=seed ^ _BLOCK_SEED)
        part_of = np.searchsorted(self.ends, slots, side="right")
        counts = np.diff(self.ends, prepend=0)
        inside = slots - (self.ends - counts)[part_of]
        positions_of_part = positions // BLOCK * counts[part_of] + inside
        drawn = np.empty_like(positions)
        for number, part in enumerate(self.parts):
            here = part_of == number
            drawn[here] = part.draw(positions_of_part[here], seed + number)
        return drawn
