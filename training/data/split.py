"""How the images of an optimizer step are divided among ranks and micro batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from annotations_schema.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSplit:
    """The part of one rank in every optimizer step.

    Step s takes the stream positions [s * batch_size, (s + 1) * batch_size), rank by rank and in
    each rank micro batch by micro batch, so the images of a step are the same for any number of
    ranks, and so is their order.

    Raises:
        UsageError: the images do not divide evenly, or a number is out of range.
    """

    batch_size: int
    """Images of one optimizer step over all ranks."""
    micro_batch: int
    """Most images at a time on one rank; fewer where a rank has fewer in a step."""
    rank: int = 0
    """This process, in [0, ranks)."""
    ranks: int = 1
    """Processes that share a step."""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.micro_batch, self.ranks) < 1:
            raise UsageError(
                f"batch_size={self.batch_size}, micro_batch={self.micro_batch}, "
                f"ranks={self.ranks}: each must be at least 1"
            )
        if not 0 <= self.rank < self.ranks:
            raise UsageError(f"rank={self.rank} is outside [0, {self.ranks}), the ranks there are")
        if self.batch_size % self.ranks:
            raise UsageError(
                f"data.stream.batch_size={self.batch_size} does not divide among {self.ranks} "
                "ranks; choose a multiple of their number"
            )
        if self.images_of_rank % self.micro_images:
            raise UsageError(
                f"machine.micro_batch={self.micro_batch} does not divide {self.images_of_rank}, "
                "the images of a rank in a step; choose a divisor of it"
            )

    @property
    def images_of_rank(self) -> int:
        """Images of one rank in a step."""
        return self.batch_size // self.ranks

    @property
    def micro_images(self) -> int:
        """Images of one micro batch."""
        return min(self.micro_batch, self.images_of_rank)

    @property
    def micro_steps(self) -> int:
        """Micro batches of one rank in a step."""
        return self.images_of_rank // self.micro_images

    def positions(self, start_step: int, num_steps: int) -> Iterator[list[int]]:
        """Stream positions of this rank's micro batches, from step `start_step` on."""
        for step in range(start_step, start_step + num_steps):
            first = step * self.batch_size + self.rank * self.images_of_rank
            for start in range(first, first + self.images_of_rank, self.micro_images):
                yield list(range(start, start + self.micro_images))
