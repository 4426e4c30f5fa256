"""From a library's detections to regions in our frame: cut to the image, empty ones dropped.

Regions stand in descending order of score; equal scores in the order of their boxes, so that the
same detections give the same manifest whatever order a library lists them in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from annotations_schema.geometry import box_areas, clip_boxes, quad_boxes
from annotations_schema.regions import FaceRegions, TextRegions


def text_regions(
    quads: ArrayLike, scores: ArrayLike, width: int, height: int
) -> tuple[TextRegions, int]:
    """Text regions of quads (N, 4, 2), edges, and how many were dropped as outside the image."""
    corners = np.asarray(quads, dtype=np.float64).reshape(-1, 4, 2)
    inside = np.clip(corners, 0.0, [width, height])
    boxes = quad_boxes(inside) if len(inside) else np.zeros((0, 4))
    confidence = _confidence(scores)
    keep = _visible_best_first(boxes, confidence)
    regions = TextRegions.from_quads(inside[keep], confidence[keep], width, height)
    return regions, len(boxes) - len(keep)


def face_regions(
    box_xyxy: ArrayLike, scores: ArrayLike, landmarks_5: ArrayLike, width: int, height: int
) -> tuple[FaceRegions, int]:
    """Face regions of boxes (N, 4), edges, and landmarks (N, 5, 2), pixel centres; as above."""
    boxes = clip_boxes(np.asarray(box_xyxy, dtype=np.float64).reshape(-1, 4), width, height)
    landmarks = np.asarray(landmarks_5, dtype=np.float64).reshape(-1, 5, 2)
    confidence = _confidence(scores)
    keep = _visible_best_first(boxes, confidence)
    regions = FaceRegions.from_landmarks(
        boxes[keep], confidence[keep], landmarks[keep], width, height
    )
    return regions, len(boxes) - len(keep)


def _confidence(scores: ArrayLike) -> NDArray[np.float64]:
    # A mean or a softmax in float32 may pass 1 by one rounding step.
    return np.clip(np.asarray(scores, dtype=np.float64).reshape(-1), 0.0, 1.0)


def _visible_best_first(
    boxes: NDArray[np.float64], scores: NDArray[np.float64]
) -> NDArray[np.intp]:
    order = np.lexsort([boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -scores])
    visible = box_areas(boxes.astype(np.float32)) > 0
    return order[visible[order]]
