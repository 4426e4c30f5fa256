"""What a detector is: a Protocol, what it finds, and the options that every adapter loads with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from annotations_schema.codes import DropReason
from annotations_schema.provenance import DetectorRecord
from annotations_schema.regions import FaceRegions, TextRegions

RegionsT = TypeVar("RegionsT", bound=TextRegions | FaceRegions)
RegionsT_co = TypeVar("RegionsT_co", bound=TextRegions | FaceRegions, covariant=True)


class Provider(StrEnum):
    """Where a detector computes."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorOptions:
    """How to load one detector."""

    weights: Path | None = None
    """Weights file (for an insightface pack, its folder will do). Without it: the embedded weights,
    or the library's cache and, where that is empty, its own announced download."""
    score_min: float | None = None
    """Regions that score less are left out, [0, 1]. Without it: the detector's own threshold."""
    side_min_px: float = 0.0
    """Regions whose shorter side is less are left out, pixels of the image."""
    input_sides_px: tuple[int, ...] | None = None
    """Limits of the longer side at which the network sees the image, pixels; each is one pass.
    Without it: the detector's own."""
    threads: int = 1
    """CPU threads of one run of the network."""
    provider: Provider = Provider.CPU
    """Where the network computes."""


class Dropped(NamedTuple):
    """A region that was found and left out.

    box_xyxy: x0, y0, x1, y1, pixels, edges; cut to the image where part of it lies inside.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float
    reason: DropReason


class Found(NamedTuple, Generic[RegionsT_co]):
    """What a detector found in one image: what it kept, and what a rule left out; best first."""

    regions: RegionsT_co
    dropped: tuple[Dropped, ...]


class Detector(Protocol[RegionsT]):
    """Finds regions of one kind. Several threads may call it at a time."""

    record: DetectorRecord
    """Name, library, version, weights, licence, thresholds and input size, for the footer."""
    errors: tuple[type[Exception], ...]
    """What the library raises when it cannot process an image."""

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[Found[RegionsT]]:
        """What is in each image (H, W, 3) uint8 RGB, in its frame; images may differ in size.

        Images go through the network together where it takes batches and they fit into one; an
        image's result does not depend on the others.
        """

    def detect(self, image: NDArray[np.uint8]) -> RegionsT:
        """Regions of one image (H, W, 3) uint8 RGB, in its frame."""
        return self.find([image])[0].regions


TextDetector = Detector[TextRegions]
"""Finds text regions."""

FaceDetector = Detector[FaceRegions]
"""Finds faces with five landmarks."""


def library_version(library: str, engine: str) -> str:
    """Version of a detector's library, with that of the engine that computes for it."""
    return f"{version(library)} ({engine} {version(engine)})"
