"""The stream of training batches: any number of workers gives the same batches.

A batch is a pure function of (images, seed, stream position). Workers only decode ahead; torch's
DataLoader hands their results out in the order of the sampler.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from annotations_schema.errors import UsageError
from training.data.batch import Batch, DroppedRegions, collate
from training.data.manifest import BadImageError
from training.data.order import sample_order
from training.data.transforms import AnnotatedImage, CropConfig, Sample, random_sample

MAX_REPLACEMENTS = 16
"""So many images in a row that cannot be read are no accident: the run stops."""


class ImageSource(Protocol):
    """What the loader needs of a dataset."""

    def read(self, index: int) -> AnnotatedImage:
        """One decoded image; raises BadImageError."""
        ...


class LoadedBatch(NamedTuple):
    """A batch, the regions over its cap, and the images that had to be replaced (their errors)."""

    batch: Batch
    dropped: DroppedRegions
    bad_images: tuple[str, ...]


class _LoadedSample(NamedTuple):
    sample: Sample
    bad_images: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """How samples become batches."""

    batch_size: int = 16
    """Images per optimizer step."""
    max_text: int = 64
    """Most text regions of a batch; the largest stay. It bounds the memory of the recogniser."""
    max_faces: int = 32
    """Most faces of a batch; the largest stay."""
    num_workers: int = 0
    """Processes that decode ahead; 0 decodes in the training process. The batches are the same."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_text", "max_faces", "num_workers"):
            least = 1 if name == "batch_size" else 0
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)}: it must be at least {least}")


class SampleStream(Dataset[_LoadedSample]):
    """Samples by stream position: a map-style dataset without end.

    Args:
        source: the images.
        indices: (N,) which of them take part; the order runs over these.
        crop: how windows are chosen.
        seed: of order and windows.
    """

    def __init__(
        self, source: ImageSource, indices: NDArray[np.int64], crop: CropConfig, seed: int
    ) -> None:
        self._source, self._indices, self._crop, self._seed = source, indices, crop, seed

    def __getitem__(self, stream_position: int) -> _LoadedSample:
        """The sample at a position; an image that cannot be read is replaced by the next in order.

        Raises:
            UsageError: `MAX_REPLACEMENTS` images in a row cannot be read.
        """
        bad: list[str] = []
        for position in range(stream_position, stream_position + MAX_REPLACEMENTS):
            try:
                annotated = self._source.read(self._index(position))
            except BadImageError as error:
                bad.append(str(error))
                continue
            sample = random_sample(
                annotated, self._crop, seed=self._seed, stream_position=stream_position
            )
            return _LoadedSample(sample, tuple(bad))
        raise UsageError(
            f"{MAX_REPLACEMENTS} images in a row cannot be read, the last: {bad[-1]}; "
            "run insight-curate verify on the dataset"
        )

    def _index(self, stream_position: int) -> int:
        n = len(self._indices)
        order = sample_order(stream_position, num_samples=n, seed=self._seed)
        return int(self._indices[int(order)])


def batches(
    stream: SampleStream, config: StreamConfig, *, start: int, num_batches: int, pin_memory: bool
) -> Iterator[LoadedBatch]:
    """Batches from stream position `start` on, `num_batches` of them.

    The global random state is neither read nor changed.
    """
    positions = range(start, start + num_batches * config.batch_size)
    yield from DataLoader(
        stream,
        batch_size=config.batch_size,
        sampler=positions,
        num_workers=config.num_workers,
        collate_fn=functools.partial(_load_batch, config=config),
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupts,
        # The loader draws its worker seeds from here instead of from the global generator.
        generator=torch.Generator().manual_seed(0),
    )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the training process decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _load_batch(loaded: list[_LoadedSample], config: StreamConfig) -> LoadedBatch:
    collated = collate(
        [item.sample for item in loaded], max_text=config.max_text, max_faces=config.max_faces
    )
    bad = tuple(error for item in loaded for error in item.bad_images)
    return LoadedBatch(collated.batch, collated.dropped, bad)
