"""From a library's detections to regions in our frame: cut to the image, sorted out by rules.

Regions stand in descending order of score; equal scores in the order of their boxes, so that the
same detections give the same manifest whatever order a library lists them in. What a rule leaves
out is kept as `Dropped`, with the first rule of this order that it breaks: degenerate, outside the
image, score, side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from annotations_schema.codes import DropReason
from annotations_schema.geometry import box_areas, clip_boxes, quad_boxes
from annotations_schema.regions import FaceRegions, TextRegions
from curation.annotate.protocols import Dropped, Found

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a region must have to stay."""

    score_min: float = 0.0
    """Least score, compared in float32, which a manifest holds."""
    side_min_px: float = 0.0
    """Least length of the shorter side of a text's quad or a face's box, pixels."""


def text_found(
    quads: ArrayLike, scores: ArrayLike, width: int, height: int, rules: Rules
) -> Found[TextRegions]:
    """Text of quads (N, 4, 2), edges, and scores (N,) in an image of width x height pixels."""
    corners = np.asarray(quads, dtype=np.float64).reshape(-1, 4, 2)
    inside = np.clip(corners, 0.0, [width, height])
    before, boxes = (quad_boxes(q) if len(q) else np.zeros((0, 4)) for q in (corners, inside))
    confidence = _confidence(scores)
    reasons = _reasons(before, boxes, confidence, quad_sides_px(inside), rules)
    kept, left_out = _best_first(boxes, confidence, reasons)
    regions = TextRegions.from_quads(inside[kept], confidence[kept], width, height)
    return Found(regions, _dropped(before, boxes, confidence, reasons, left_out))


def face_found(
    box_xyxy: ArrayLike,
    scores: ArrayLike,
    landmarks_5: ArrayLike,
    width: int,
    height: int,
    rules: Rules,
) -> Found[FaceRegions]:
    """Faces of boxes (N, 4), edges, and landmarks (N, 5, 2), pixel centres; as above."""
    before = np.asarray(box_xyxy, dtype=np.float64).reshape(-1, 4)
    boxes = clip_boxes(before, width, height)
    landmarks = np.asarray(landmarks_5, dtype=np.float64).reshape(-1, 5, 2)
    confidence = _confidence(scores)
    sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    reasons = _reasons(before, boxes, confidence, sides, rules)
    kept, left_out = _best_first(boxes, confidence, reasons)
    regions = FaceRegions.from_landmarks(
        boxes[kept], confidence[kept], landmarks[kept], width, height
    )
    return Found(regions, _dropped(before, boxes, confidence, reasons, left_out))


def quad_sides_px(quads: Float64) -> Float64:
    """Shorter side (N,) of quads (N, 4, 2), pixels; opposite sides count as their mean."""
    lengths = np.linalg.norm(quads - np.roll(quads, -1, axis=1), axis=2)
    shorter: Float64 = ((lengths[:, :2] + lengths[:, 2:]) / 2).min(axis=1)
    return shorter


def _confidence(scores: ArrayLike) -> Float64:
    # A mean or a softmax in float32 may pass 1 by one rounding step.
    return np.clip(np.asarray(scores, dtype=np.float64).reshape(-1), 0.0, 1.0)


def _reasons(
    before: Float64, boxes: Float64, scores: Float64, sides: Float64, rules: Rules
) -> NDArray[np.object_]:
    """Of each box (N, 4) the first rule that it breaks, or None."""
    # Not `<= 0`: an area that is not a number is no area.
    has_no_area = ~(box_areas(before.astype(np.float32)) > 0)
    is_outside = ~(box_areas(boxes.astype(np.float32)) > 0)
    is_weak = scores.astype(np.float32) < np.float32(rules.score_min)
    reasons = np.full(len(boxes), None, dtype=object)
    for mask, reason in (
        (sides < rules.side_min_px, DropReason.SIDE_BELOW_MIN),
        (is_weak, DropReason.SCORE_BELOW_MIN),
        (is_outside, DropReason.OUTSIDE_IMAGE),
        (has_no_area, DropReason.DEGENERATE),
    ):
        reasons[mask] = reason
    return reasons


def _best_first(
    boxes: Float64, scores: Float64, reasons: NDArray[np.object_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices that stay and indices that are left out, each in the manifest's order."""
    order = np.lexsort([boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -scores])
    stays = np.array([reasons[i] is None for i in order], dtype=np.bool_)
    return order[stays], order[~stays]


def _dropped(
    before: Float64,
    boxes: Float64,
    scores: Float64,
    reasons: NDArray[np.object_],
    indices: NDArray[np.intp],
) -> tuple[Dropped, ...]:
    dropped = []
    for index in indices.tolist():
        reason = reasons[index]
        has_part_inside = reason in (DropReason.SCORE_BELOW_MIN, DropReason.SIDE_BELOW_MIN)
        box = np.nan_to_num((boxes if has_part_inside else before)[index].astype(np.float32))
        x0, y0, x1, y1 = box.tolist()
        score = float(np.float32(np.nan_to_num(scores[index])))
        dropped.append(Dropped((x0, y0, x1, y1), score, reason))
    return tuple(dropped)
