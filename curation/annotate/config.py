"""How images are annotated: which detectors, from which weights, with which limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from annotations_schema.errors import UsageError
from annotations_schema.images import DecodeLimits
from annotations_schema.layout import config_sha256, sha256_file
from annotations_schema.weights import resolve
from curation.annotate.cards import PPOCR_V6_SMALL_DET, RETINAFACE_MNET025, given_file
from curation.annotate.detectors import (
    FACE_DETECTORS,
    NOT_RUN,
    TEXT_DETECTORS,
    DetectorEntry,
    check_face_detector,
    check_text_detector,
)
from curation.annotate.protocols import DetectorOptions, Provider


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotateConfig:
    """Settings of the annotate stage."""

    text_detector: str = PPOCR_V6_SMALL_DET.name
    """Name of a text detector, or "none"."""
    face_detector: str = RETINAFACE_MNET025.name
    """Name of a face detector, or "none"."""
    text_weights: str | None = None
    """Weights file of the text detector. Without it: embedded weights, or the library's own
    download."""
    face_weights: str | None = None
    """Weights file of the face detector, or an insightface pack's folder. Without it: embedded
    weights, or the library's own download."""
    text_score_min: float | None = None
    """Text regions that score less are left out, [0, 1]. Without it: the detector's threshold."""
    face_score_min: float | None = None
    """Faces that score less are left out, [0, 1]. Without it: the detector's threshold."""
    text_side_min_px: float = 0.0
    """Text regions whose quad has a shorter side than this are left out, pixels."""
    face_side_min_px: float = 0.0
    """Faces whose box has a shorter side than this are left out, pixels."""
    text_input_sides_px: tuple[int, ...] | None = None
    """Size at which the text network sees the longer side, pixels. Without it: the detector's."""
    face_input_sides_px: tuple[int, ...] | None = None
    """Sizes at which the face network sees the longer side, pixels, one pass each. Without it:
    the detector's."""
    provider: Provider = Provider.CPU
    """Where the networks compute."""
    threads: int = 1
    """Images that a worker looks at side by side, each on one CPU thread; they change the speed,
    not the regions."""
    batch_size: int = 1
    """Most images in one run of a network that takes batches. It pays on a GPU, not on a CPU."""
    max_pixels: int = DecodeLimits().max_pixels
    """Images with more pixels become failed rows."""
    max_side_px: int = DecodeLimits().max_side
    """Images with a longer side become failed rows, pixels."""

    def __post_init__(self) -> None:
        check_text_detector(self.text_detector)
        check_face_detector(self.face_detector)
        for kind in ("text", "face"):
            if getattr(self, f"{kind}_weights") and getattr(self, f"{kind}_detector") == NOT_RUN:
                raise UsageError(f"{kind}_weights is given, but {kind}_detector is {NOT_RUN!r}")
        for name in ("text_score_min", "face_score_min"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} is {value}; it must lie between 0 and 1")
        for name in ("text_side_min_px", "face_side_min_px"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; give pixels, 0 keeps all")
        for name in ("threads", "batch_size", "max_pixels", "max_side_px"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("text_input_sides_px", "face_input_sides_px"):
            sides = getattr(self, name)
            if sides is not None and (not sides or min(sides) < 32):
                raise UsageError(f"{name} is {list(sides)}; give sizes of at least 32 px")

    @property
    def limits(self) -> DecodeLimits:
        """The decoder's caps."""
        return DecodeLimits(max_pixels=self.max_pixels, max_side=self.max_side_px)

    @property
    def text_options(self) -> DetectorOptions:
        """How the text detector is loaded."""
        return DetectorOptions(
            weights=None if self.text_weights is None else Path(self.text_weights),
            score_min=self.text_score_min,
            side_min_px=self.text_side_min_px,
            input_sides_px=self.text_input_sides_px,
            provider=self.provider,
        )

    @property
    def face_options(self) -> DetectorOptions:
        """How the face detector is loaded."""
        return DetectorOptions(
            weights=None if self.face_weights is None else Path(self.face_weights),
            score_min=self.face_score_min,
            side_min_px=self.face_side_min_px,
            input_sides_px=self.face_input_sides_px,
            provider=self.provider,
        )


def result_sha256(config: AnnotateConfig) -> str:
    """Hash of what decides the regions: not threads or batches, and a weights file by its content.

    Raises:
        WeightsError: a weights file is absent.
    """
    identity = replace(
        config,
        threads=1,
        batch_size=1,
        text_weights=_content(TEXT_DETECTORS, config.text_detector, config.text_weights),
        face_weights=_content(FACE_DETECTORS, config.face_detector, config.face_weights),
    )
    return config_sha256(identity)


def _content(
    table: Mapping[str, DetectorEntry[Any]], detector: str, weights: str | None
) -> str | None:
    if weights is None:
        return None
    card = table[detector].card
    return sha256_file(resolve(card, given_file(card, Path(weights))))
