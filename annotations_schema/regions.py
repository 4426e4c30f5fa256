"""Annotated areas of one image as struct-of-arrays: `TextRegions` and `FaceRegions`.

Row i of every array belongs to region i. Arrays are checked on construction and read-only after.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from annotations_schema.errors import GeometryError
from annotations_schema.geometry import FitVerdict, area_fraction, fit_similarity, quad_boxes

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


class _Regions:
    """What both kinds share: a length, selection, an empty set."""

    __slots__ = ()
    box_xyxy: Float32

    def __len__(self) -> int:
        return len(self.box_xyxy)

    def take(self, index: ArrayLike) -> Self:
        """The regions that an index array or a boolean mask names, in its order."""
        chosen = np.asarray(index)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return type(self)(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextRegions(_Regions):
    """Text regions of one image."""

    box_xyxy: Float32
    """(N, 4) float32 x0, y0, x1, y1, pixels, edges: the axis-aligned hull of `quad`."""
    quad: Float32
    """(N, 4, 2) float32 corners clockwise from the text's top left, pixels, edges."""
    score: Float32
    """(N,) float32 detector confidence in [0, 1]."""
    area_fraction: Float32
    """(N,) float32 area(box) / area(image), in [0, 1]."""

    def __post_init__(self) -> None:
        n = _check_boxes(self, "text")
        _freeze(self, "quad", np.float32, (n, 4, 2))

    @classmethod
    def empty(cls) -> TextRegions:
        """No region: looked and found none."""
        return cls.from_quads(np.zeros((0, 4, 2)), np.zeros(0), width=1, height=1)

    @classmethod
    def from_quads(
        cls, quads: ArrayLike, scores: ArrayLike, width: int, height: int
    ) -> TextRegions:
        """Regions of quads (N, 4, 2) and scores (N,), cut to an image of width x height pixels."""
        inside = np.clip(np.asarray(quads, dtype=np.float64).reshape(-1, 4, 2), 0, [width, height])
        boxes = quad_boxes(inside) if len(inside) else np.zeros((0, 4))
        return cls(
            box_xyxy=boxes.astype(np.float32),
            quad=inside.astype(np.float32),
            score=np.asarray(scores, dtype=np.float32),
            area_fraction=area_fraction(boxes, width, height).astype(np.float32),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FaceRegions(_Regions):
    """Face regions of one image."""

    box_xyxy: Float32
    """(N, 4) float32 x0, y0, x1, y1, pixels, edges."""
    score: Float32
    """(N,) float32 detector confidence in [0, 1]."""
    landmarks_5: Float32
    """(N, 5, 2) float32 image-left eye, image-right eye, nose, image-left mouth corner,
    image-right mouth corner; pixels, pixel centres."""
    crop_from_image: Float64
    """(N, 2, 3) float64 canvas from image, pixel centres; a row of NaN where no fit exists (null in
    a file)."""
    residual_px: Float32
    """(N,) float32 root mean square landmark distance on the canvas, pixels; NaN where no fit."""
    is_valid: Bool
    """(N,) bool: the fit's verdict is `VALID`."""
    area_fraction: Float32
    """(N,) float32 area(box) / area(image), in [0, 1]."""

    def __post_init__(self) -> None:
        n = _check_boxes(self, "face")
        _freeze(self, "landmarks_5", np.float32, (n, 5, 2))
        _freeze(self, "crop_from_image", np.float64, (n, 2, 3), may_be_nan=True)
        _freeze(self, "residual_px", np.float32, (n,), may_be_nan=True)
        _freeze(self, "is_valid", np.bool_, (n,))
        has_fit = ~np.isnan(self.crop_from_image).any(axis=(1, 2))
        if (self.is_valid & ~has_fit).any():
            raise GeometryError("face regions: a region without crop_from_image cannot be valid")

    @classmethod
    def empty(cls) -> FaceRegions:
        """No region: looked and found none."""
        return cls.from_landmarks(
            np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)), width=1, height=1
        )

    @classmethod
    def from_landmarks(
        cls,
        box_xyxy: ArrayLike,
        scores: ArrayLike,
        landmarks_5: ArrayLike,
        width: int,
        height: int,
    ) -> FaceRegions:
        """Regions of boxes (N, 4), scores (N,) and landmarks (N, 5, 2), with their alignments.

        Boxes are cut to the image; landmarks are kept where the detector put them. The fit is made
        from the float32 landmarks that a file holds, so that a reader can derive it again.
        """
        limits = [width, height, width, height]
        boxes = np.clip(np.asarray(box_xyxy, dtype=np.float64).reshape(-1, 4), 0, limits)
        landmarks = np.asarray(landmarks_5, dtype=np.float32).reshape(-1, 5, 2)
        fits = [fit_similarity(one) for one in landmarks]
        no_matrix = np.full((2, 3), np.nan)
        return cls(
            box_xyxy=boxes.astype(np.float32),
            score=np.asarray(scores, dtype=np.float32),
            landmarks_5=landmarks,
            crop_from_image=np.array(
                [no_matrix if f.matrix is None else f.matrix for f in fits]
            ).reshape(-1, 2, 3),
            residual_px=np.array(
                [np.nan if f.residual_px is None else f.residual_px for f in fits], np.float32
            ),
            is_valid=np.array([f.verdict is FitVerdict.VALID for f in fits], np.bool_),
            area_fraction=area_fraction(boxes, width, height).astype(np.float32),
        )


def _check_boxes(regions: TextRegions | FaceRegions, kind: str) -> int:
    n = len(regions.box_xyxy)
    _freeze(regions, "box_xyxy", np.float32, (n, 4))
    for name in ("score", "area_fraction"):
        _freeze(regions, name, np.float32, (n,))
        values = getattr(regions, name)
        if ((values < 0) | (values > 1)).any():
            raise GeometryError(f"{kind} regions: {name} must lie in [0, 1], found {values}")
    boxes = regions.box_xyxy
    if (boxes[:, 2] < boxes[:, 0]).any() or (boxes[:, 3] < boxes[:, 1]).any():
        raise GeometryError(f"{kind} regions: a box has x1 < x0 or y1 < y0: {boxes.tolist()}")
    return n


def _freeze(
    regions: Any, name: str, dtype: type, shape: tuple[int, ...], *, may_be_nan: bool = False
) -> None:
    value: NDArray[Any] = np.array(getattr(regions, name), dtype=dtype)
    if value.shape != shape:
        raise GeometryError(f"{name} has shape {value.shape}, expected {shape}")
    bad = np.isinf(value) if may_be_nan else ~np.isfinite(value)
    if bad.any():
        raise GeometryError(f"{name} holds a value that is not finite")
    value.setflags(write=False)
    object.__setattr__(regions, name, value)
