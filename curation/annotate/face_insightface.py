"""Faces by SCRFD or RetinaFace through insightface's model zoo.

insightface's coordinates are taken as it gives them: it feeds its landmarks to
`cv2.warpAffine` unchanged, so they are pixel centres by the law that
`cv2.warpAffine(image, crop_from_image)` is its `norm_crop(image, landmarks_5)`, and its boxes are
clipped and drawn as edges.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests
from insightface.model_zoo import SCRFD, RetinaFace, get_model
from insightface.utils import ensure_available
from numpy.typing import NDArray

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.layout import sha256_file
from annotations_schema.provenance import DetectorRecord
from annotations_schema.regions import FaceRegions
from annotations_schema.weights import WeightsCard, resolve
from curation.annotate.cards import INSIGHTFACE_ONNX, given_file, insightface_pack_dir
from curation.annotate.frame import Rules, face_found
from curation.annotate.onnx_session import (
    execution_providers,
    onnx_errors,
    require_active,
    session_options,
)
from curation.annotate.protocols import Detector, DetectorOptions, Found, library_version

SCORE_MIN = 0.5
CANDIDATE_SCORE_MIN = 0.3
"""Faces that score at least this after insightface's suppression are candidates. Those below the
score that is asked for are recorded as dropped; it goes from the best on, so they change no face.
"""
INPUT_SIDES_PX = (128, 640)
"""insightface's own joint detection sizes: squares into which the image is fitted."""


class InsightFaceDetector(Detector[FaceRegions]):
    """A detector of insightface's model zoo."""

    def __init__(self, card: WeightsCard, options: DetectorOptions) -> None:
        file = _weights_file(card, options)
        self._model = _open_model(card, file, options)
        score_min = SCORE_MIN if options.score_min is None else options.score_min
        self._rules = Rules(score_min=score_min, side_min_px=options.side_min_px)
        self._model.det_thresh = min(CANDIDATE_SCORE_MIN, score_min)
        self._sizes = _input_sizes(card, self._model, options)
        self.errors = (cv2.error, *onnx_errors())
        self.record = DetectorRecord(
            name=card.name,
            library="insightface",
            library_version=library_version("insightface", "onnxruntime"),
            weights_sha256=sha256_file(file),
            weights_licence=card.licence,
            thresholds={
                "score_min": score_min,
                "candidate_score_min": self._model.det_thresh,
                "side_min_px": options.side_min_px,
                "iou_max": self._model.nms_thresh,
            },
            input_size="fitted into "
            + " and ".join(f"{width} x {height}" for width, height in self._sizes),
        )

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[Found[FaceRegions]]:
        """Faces of each image (H, W, 3) uint8 RGB; insightface takes them one by one."""
        return [self._find_one(image) for image in images]

    def _find_one(self, image: NDArray[np.uint8]) -> Found[FaceRegions]:
        height, width = image.shape[:2]
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        boxes, landmarks = self._model.detect(bgr, input_size=self._sizes)
        return face_found(boxes[:, :4], boxes[:, 4], landmarks, width, height, self._rules)


def _weights_file(card: WeightsCard, options: DetectorOptions) -> Path:
    """The file given (or inside the pack folder given), else the pack's, downloaded if need be."""
    if options.weights is not None:
        return resolve(card, given_file(card, options.weights))
    if card is INSIGHTFACE_ONNX:
        return resolve(card)
    return resolve(card, given_file(card, _pack_dir(card)))


def _pack_dir(card: WeightsCard) -> Path:
    """The pack's folder in insightface's cache, after insightface's own download where absent.

    Raises:
        WeightsError: the download failed.
    """
    folder = insightface_pack_dir(card)
    if folder.exists():
        return folder
    print(f"{card.name}: insightface downloads the pack {folder.name}", file=sys.stderr)  # noqa: T201
    try:
        with redirect_stdout(sys.stderr):  # insightface prints, and stdout is for machine output
            return Path(ensure_available("models", folder.name))
    except (requests.RequestException, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{card.name}: insightface could not download {folder.name} ({reason}); {card.hint}"
        ) from error


def _open_model(card: WeightsCard, file: Path, options: DetectorOptions) -> Any:
    """insightface's own class around the file, chosen by its own router.

    Raises:
        WeightsError: the file is no ONNX graph, or no detector with five landmarks.
    """
    try:
        model = get_model(
            str(file),
            providers=execution_providers(options.provider),
            sess_options=session_options(options.threads),
        )
    except onnx_errors() as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{card.name}: {file} is no ONNX model ({reason}); {card.hint}"
        ) from error
    if not isinstance(model, (SCRFD, RetinaFace)) or not model.use_kps:
        raise WeightsError(
            f"{card.name}: {file} is not an .onnx face detector with landmarks "
            f"(9 or 15 outputs); {card.hint}"
        )
    require_active(model.session, options.provider)
    return model


def _input_sizes(card: WeightsCard, model: Any, options: DetectorOptions) -> list[tuple[int, int]]:
    """The squares, or the one size that a file with fixed input takes."""
    if model.static_input_size is not None:
        return [model.static_input_size]
    sides = options.input_sides_px or INPUT_SIDES_PX
    if any(side <= 0 or side % 32 for side in sides):
        raise UsageError(
            f"face detector {card.name!r} takes input sides that are multiples of 32, got "
            f"{', '.join(map(str, sides))}; give for example 640"
        )
    return [(side, side) for side in sides]
