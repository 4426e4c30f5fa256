"""What a detector is: two Protocols and the options that every adapter is loaded with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from annotations_schema.provenance import DetectorRecord
from annotations_schema.regions import FaceRegions, TextRegions


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
    input_sides_px: tuple[int, ...] | None = None
    """Limits of the longer side at which the network sees the image, pixels; each is one pass.
    Without it: the detector's own."""
    threads: int = 1
    """CPU threads of the network."""
    provider: Provider = Provider.CPU
    """Where the network computes."""


class Detector(Protocol):
    """What both kinds share."""

    @property
    def record(self) -> DetectorRecord:
        """Name, library, version, weights, licence, thresholds and input size, for the footer."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the library raises when it cannot process an image."""

    @property
    def num_dropped(self) -> int:
        """Regions dropped since loading because no part of them lies inside their image."""


class TextDetector(Detector, Protocol):
    """Finds text regions."""

    def detect(self, image: NDArray[np.uint8]) -> TextRegions:
        """Text regions of an image (H, W, 3) uint8 RGB, in its frame."""


class FaceDetector(Detector, Protocol):
    """Finds faces with five landmarks."""

    def detect(self, image: NDArray[np.uint8]) -> FaceRegions:
        """Face regions of an image (H, W, 3) uint8 RGB, in its frame."""


def library_version(library: str, engine: str) -> str:
    """Version of a detector's library, with that of the engine that computes for it."""
    return f"{version(library)} ({engine} {version(engine)})"
