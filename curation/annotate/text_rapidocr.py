"""Text by PP-OCRv6 small, a DB detector (Liao et al., 2020), through rapidocr's own classes.

rapidocr's `TextDetector` sorts its boxes but not their scores, so its parts are called one by one:
the resizing of `DetPreProcess`, the session, `DBPostProcess`. Its normalisation is looked up in a
table that `DetPreProcess` computed. Its settings are those of its own config.yaml, but for three,
each judged on 36 to 40 annotated photos (ICDAR 2015, MTWI, MSRA-TD500, WildReceipt):

* mean and deviation: ImageNet's, with which PaddleOCR trained, in place of 0.5. Recall of words
  rose from 0.81 to 0.91 at the same precision of 0.97.
* unclip_ratio: 1.2 in place of 1.6, whose quads have 1.44 times the area of the annotated words
  (median) against 1.21. A loss on text should see letters, not their surroundings.
* the size at which an image is seen: `network_scale`.

rapidocr's quads are edges already: contours run through pixel centres, and its dilation of the
text map grows every blob by one pixel to the right and down, which turns the centre of the last
pixel into its far edge. It rounds to whole pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from rapidocr.ch_ppocr_det import TextDetector as RapidOcrTextDetector
from rapidocr.ch_ppocr_det.utils import DetPreProcess, ResizeImgError
from rapidocr.inference_engine.onnxruntime import ONNXRuntimeError
from rapidocr.main import DEFAULT_CFG_PATH
from rapidocr.utils.parse_parameters import ParseParams

from annotations_schema.errors import UsageError
from annotations_schema.provenance import DetectorRecord
from annotations_schema.regions import TextRegions
from annotations_schema.weights import read_weights
from curation.annotate.cards import PPOCR_V6_SMALL_DET
from curation.annotate.frame import Rules, text_found
from curation.annotate.network_input import bgr_planes, run_by_shape
from curation.annotate.onnx_session import onnx_errors, open_session
from curation.annotate.protocols import Detector, DetectorOptions, Found, library_version

SHORTER_SIDE_PX = 736
"""Smaller images are enlarged to this shorter side, as rapidocr does (its limit_side_len)."""
ENLARGEMENT_MAX = 3.0
"""Most that a small image is enlarged: words at a quarter of their size were found better (recall
0.59) at 2.7 times than at 4 times (0.56), and three times as fast."""
LONGER_SIDE_PX = 2000
"""The longer side is at most this, as rapidocr does (its max_side_len); it wins over the other."""

UNCLIP_RATIO = 1.2
"""How far the shrunken text of the map is grown back: area * ratio / perimeter on every side."""

CANDIDATE_SCORE_MIN = 0.3
"""Blobs of the map that score at least this are candidates: the threshold of the map itself. Those
below the score that is asked for are recorded as dropped. rapidocr makes no candidate of a blob
under 3 px of the map, of a quad up to 3 px long or wide, or past its first 1,000 contours."""

_IMAGENET_MEAN = [0.485, 0.456, 0.406]
_IMAGENET_DEVIATION = [0.229, 0.224, 0.225]
_SMALLEST_SIDE_PX = 32  # the network's total stride


class RapidOcrDetector(Detector[TextRegions]):
    """PP-OCRv6 small on onnxruntime."""

    def __init__(self, options: DetectorOptions) -> None:
        card = PPOCR_V6_SMALL_DET
        model = read_weights(card, options.weights)
        session = open_session(model, card.name, options.threads, options.provider)
        self._longer_side = _one_side(options)
        self._parts = _rapidocr_parts(session)
        self._tables = _normalisation(self._parts)
        post = self._parts.postprocess_op
        score_min = post.box_thresh if options.score_min is None else options.score_min
        self._rules = Rules(score_min=score_min, side_min_px=options.side_min_px)
        post.box_thresh = min(CANDIDATE_SCORE_MIN, score_min)
        self.errors = (
            cv2.error,
            ONNXRuntimeError,
            ResizeImgError,
            *onnx_errors(),
        )
        self.record = DetectorRecord(
            name=card.name,
            library="rapidocr",
            library_version=library_version("rapidocr", "onnxruntime"),
            weights_sha256=sha256(model).hexdigest(),
            weights_licence=card.licence,
            thresholds={
                "score_min": score_min,
                "candidate_score_min": post.box_thresh,
                "side_min_px": options.side_min_px,
                "map_min": post.thresh,
                "unclip_ratio": post.unclip_ratio,
            },
            input_size=f"shorter side at least {SHORTER_SIDE_PX} px by enlarging up to "
            f"{ENLARGEMENT_MAX} times, longer side at most {self._longer_side} px, both rounded to "
            "multiples of 32",
        )

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[Found[TextRegions]]:
        """Text of each image (H, W, 3) uint8 RGB."""
        maps = run_by_shape(
            lambda batch: [self._parts.session(batch)], [self._network_input(i) for i in images]
        )
        return [self._found(image, one) for image, (one,) in zip(images, maps, strict=True)]

    def _network_input(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = image.shape[:2]
        scale = network_scale(width, height, self._longer_side)
        seen = pad_narrow(image, scale)
        # DetPreProcess enlarges to a shorter side ("min") or shrinks to a longer one ("max").
        limit, kind = (min(seen.shape[:2]), "min") if scale > 1 else (max(seen.shape[:2]), "max")
        prepare: Any = DetPreProcess(limit * scale, kind)
        return bgr_planes(prepare.resize(seen), self._tables)

    def _found(
        self, image: NDArray[np.uint8], probability: NDArray[np.float32]
    ) -> Found[TextRegions]:
        height, width = image.shape[:2]
        seen = pad_narrow(image, network_scale(width, height, self._longer_side))
        quads, scores = self._parts.postprocess_op(probability, seen.shape[:2])
        return text_found(quads, scores, width, height, self._rules)


def network_scale(width: int, height: int, longer_side_px: int) -> float:
    """Network pixels for each image pixel: small images enlarged, the longer side capped."""
    enlarged = min(max(1.0, SHORTER_SIDE_PX / min(width, height)), ENLARGEMENT_MAX)
    return min(enlarged, longer_side_px / max(width, height))


def pad_narrow(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """The image, black added right or below where the network would see less than one stride."""
    smallest = int(np.ceil(_SMALLEST_SIDE_PX / scale))
    below, right = (max(0, smallest - side) for side in image.shape[:2])
    if not below and not right:
        return image
    return np.pad(image, [(0, below), (0, right), (0, 0)])


def _one_side(options: DetectorOptions) -> int:
    sides = options.input_sides_px or (LONGER_SIDE_PX,)
    if len(sides) != 1:
        raise UsageError(
            f"text detector {PPOCR_V6_SMALL_DET.name!r} makes one pass, got input sides "
            f"{', '.join(map(str, sides))}; give one"
        )
    return sides[0]


def _normalisation(parts: Any) -> NDArray[np.float32]:
    """What rapidocr's own normalisation makes of every value of each channel, (3, 256)."""
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    normalised = DetPreProcess(mean=parts.mean, std=parts.std).normalize(values)
    table: NDArray[np.float32] = normalised[:, 0].T.astype(np.float32)
    return table


def _rapidocr_parts(session: Any) -> Any:
    """rapidocr's TextDetector around our session; holds preprocessing and post-processing."""
    # At import rapidocr sets up a logger that tells of every engine it starts.
    logging.getLogger("RapidOCR").setLevel(logging.WARNING)
    settings: Any = OmegaConf.to_container(ParseParams.load(DEFAULT_CFG_PATH).Det)
    config: Any = OmegaConf.create(settings, flags={"allow_objects": True})
    config.session = session
    config.mean, config.std = _IMAGENET_MEAN, _IMAGENET_DEVIATION
    config.unclip_ratio = UNCLIP_RATIO
    return RapidOcrTextDetector(config)
