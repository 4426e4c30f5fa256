"""The stream of training batches: any number of ranks and workers gives the same samples.

A sample is a pure function of (images, seed, stream position), and which positions make a batch is
one of (step, split). Workers only decode ahead; torch's DataLoader hands their results out in the
order of the sampler.
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
from training.data.batch import LoadedBatch, collate
from training.data.manifest import BadImageError
from training.data.mixture import Mixture
from training.data.split import BatchSplit
from training.data.transforms import (
    Annotation,
    CropConfig,
    Sample,
    Window,
    cut,
    random_window,
)

MAX_REPLACEMENTS = 16
"""So many images in a row that cannot be read are no accident: the run stops."""
# A position costs as much alone as in company: numpy is called as often.
_DRAWN_AT_ONCE = 256


class ImageSource(Protocol):
    """What the loader needs of a dataset."""

    def annotation(self, index: int) -> Annotation:
        """Size and regions of an image."""
        ...

    def read_window(self, index: int, window: Window) -> NDArray[np.uint8]:
        """The window's pixels (side, side, 3) uint8 RGB, not mirrored; raises BadImageError."""
        ...


class _LoadedSample(NamedTuple):
    sample: Sample
    bad_images: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """How samples become batches."""

    batch_size: int = 16
    """Images of one optimizer step, over all ranks."""
    max_text: int = 64
    """Most text regions of a micro batch; the largest stay. It bounds the recogniser's memory."""
    max_faces: int = 32
    """Most faces of a micro batch; the largest stay."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_text", "max_faces"):
            least = 1 if name == "batch_size" else 0
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)}: it must be at least {least}")


class SampleStream(Dataset[_LoadedSample]):
    """Samples by stream position: a map-style dataset without end.

    Args:
        source: the images.
        mixture: which of them take part, and how often.
        crop: how windows are chosen.
        seed: of order and windows.
    """

    def __init__(self, source: ImageSource, mixture: Mixture, crop: CropConfig, seed: int) -> None:
        self._source, self._mixture, self._crop, self._seed = source, mixture, crop, seed
        self._block: int | None = None
        self._indices: list[int] = []

    def __getitem__(self, stream_position: int) -> _LoadedSample:
        """The sample at a position; an image that cannot be read is replaced by the next in order.

        Raises:
            UsageError: `MAX_REPLACEMENTS` images in a row cannot be read.
        """
        bad: list[str] = []
        while len(bad) < MAX_REPLACEMENTS:
            index = self._drawn(stream_position + len(bad))
            annotation = self._source.annotation(index)
            window = random_window(
                annotation, self._crop, seed=self._seed, stream_position=stream_position
            )
            try:
                pixels = self._source.read_window(index, window)
            except BadImageError as error:
                bad.append(str(error))
            else:
                return _LoadedSample(cut(annotation, window, pixels, self._crop), tuple(bad))
        raise UsageError(
            f"{MAX_REPLACEMENTS} images in a row cannot be read, the last: {bad[-1]}; "
            "run insight-curate verify on the dataset"
        )

    def _drawn(self, stream_position: int) -> int:
        """The image at a position; a block of the order is worked out at once and kept."""
        block, place = divmod(stream_position, _DRAWN_AT_ONCE)
        if block != self._block:
            positions = np.arange(_DRAWN_AT_ONCE) + block * _DRAWN_AT_ONCE
            self._indices, self._block = self._mixture.draw(positions, self._seed).tolist(), block
        return self._indices[place]


class _Positions:
    """The micro batches of a split, as a sampler that can be asked for again."""

    def __init__(self, split: BatchSplit, start_step: int, num_steps: int) -> None:
        self._split, self._start_step, self._num_steps = split, start_step, num_steps

    def __iter__(self) -> Iterator[list[int]]:
        return self._split.positions(self._start_step, self._num_steps)

    def __len__(self) -> int:
        return self._num_steps * self._split.micro_steps


def batches(
    stream: SampleStream,
    config: StreamConfig,
    split: BatchSplit,
    *,
    start_step: int,
    num_steps: int,
    num_workers: int = 0,
    pin_memory: bool = False,
    pad_regions: bool = False,
) -> Iterator[LoadedBatch]:
    """The micro batches of one rank in order, `split.micro_steps` for every optimizer step.

    The global random state is neither read nor changed.

    Args:
        stream: samples.
        config: its caps on regions; the batch size is that of `split`.
        split: the part of this rank.
        start_step: the first step.
        num_steps: how many.
        num_workers: processes that decode ahead; 0 decodes here. The batches are the same.
        pin_memory: page-locked memory, from which copies to a GPU do not block.
        pad_regions: as `collate`.
    """
    yield from DataLoader(
        stream,
        batch_sampler=_Positions(split, start_step, num_steps),
        num_workers=num_workers,
        collate_fn=functools.partial(_load_batch, config=config, pad_regions=pad_regions),
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupts,
        # The loader draws its worker seeds from here instead of from the global generator.
        generator=torch.Generator().manual_seed(0),
    )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the training process decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _load_batch(
    loaded: list[_LoadedSample], config: StreamConfig, pad_regions: bool
) -> LoadedBatch:
    batch = collate(
        [item.sample for item in loaded],
        max_text=config.max_text,
        max_faces=config.max_faces,
        pad_regions=pad_regions,
    )
    return batch._replace(bad_images=tuple(e for item in loaded for e in item.bad_images))
