"""Boxes, quads, landmarks and similarity transforms, and how they move with an image.

Two conventions live side by side, and every function says which one it takes:

* **edges**: boxes and quads. Pixel (row i, column j) covers [j, j+1) x [i, i+1); the image spans
  [0, width] x [0, height].
* **pixel centres**: landmarks and `crop_from_image`, as OpenCV and insightface use them. The
  integer coordinate (j, i) is the centre of pixel (row i, column j).

An edge coordinate u is the pixel-centre coordinate u - 0.5.

A map is a 2x3 float64 matrix [[a, b, c], [d, e, f]] with u' = a u + b v + c, v' = d u + e v + f.
It is named new_from_old: `crop_from_image` takes image coordinates to canvas coordinates.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from annotations_schema.errors import GeometryError

Float64 = NDArray[np.float64]

CANVAS_PX = 112
"""Side of the aligned face canvas, pixels."""

ARCFACE_TEMPLATE_112: Float64 = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""ArcFace's landmark positions on the 112 x 112 canvas, (5, 2) float64, pixel centres.

Image-left eye, image-right eye, nose, image-left mouth corner, image-right mouth corner
(insightface, utils/face_align.py)."""
ARCFACE_TEMPLATE_112.setflags(write=False)

COLLINEAR_RATIO = 0.02
"""Landmarks whose second singular value is below this share of the first lie on one line."""

_FIXED_POINT, _SUBPIXELS = 1024, 32  # OpenCV's AB_SCALE and INTER_TAB_SIZE

MAX_ENLARGEMENT = 16.0
"""A face that the canvas would enlarge more than this (under about 7 px) is too tiny to align."""


class FitVerdict(StrEnum):
    """Whether five landmarks gave a usable similarity transform, and if not, why."""

    VALID = "valid"
    NON_FINITE = "non_finite"
    COINCIDENT = "coincident"
    COLLINEAR = "collinear"
    MIRRORED = "mirrored"
    TINY = "tiny"


class SimilarityFit(NamedTuple):
    """The least-squares similarity of five landmarks.

    matrix: (2, 3) float64, canvas from image, pixel centres; None where no fit exists.
    residual_px: root mean square distance of the moved landmarks from the template, canvas
        pixels; None where no fit exists.
    verdict: `VALID`, or the first rule that the landmarks break.
    """

    matrix: Float64 | None
    residual_px: float | None
    verdict: FitVerdict


def fit_similarity(
    landmarks_5: ArrayLike, template: ArrayLike = ARCFACE_TEMPLATE_112
) -> SimilarityFit:
    """Fit scale, rotation and translation that take landmarks to the template (least squares).

    Closed form of Umeyama (1991) for two dimensions, in complex numbers: with centred points p, q
    the minimiser of sum |s R p + t - q|^2 over proper similarities is s R = sum conj(p) q / sum
    |p|^2. A reflection is never returned.

    Args:
        landmarks_5: (N, 2) image coordinates, pixel centres; N = 5 for faces.
        template: (N, 2) canvas coordinates, pixel centres.

    Raises:
        GeometryError: shapes differ or are not (N, 2).
    """
    source = np.asarray(landmarks_5, dtype=np.float64)
    target = np.asarray(template, dtype=np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
        raise GeometryError(
            f"landmarks of shape {source.shape} do not match a template of shape {target.shape}; "
            "both must be (N, 2)"
        )
    if not np.isfinite(source).all():
        return SimilarityFit(None, None, FitVerdict.NON_FINITE)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    p, q = source - source_mean, target - target_mean
    spread = float((p**2).sum())
    # Below this the coordinates differ by rounding alone: the scale would be noise.
    if spread <= (1e-6 * max(1.0, float(np.abs(source).max()))) ** 2:
        return SimilarityFit(None, None, FitVerdict.COINCIDENT)
    real = float((p * q).sum()) / spread
    imaginary = float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / spread
    if real == 0.0 and imaginary == 0.0:
        return SimilarityFit(None, None, FitVerdict.COLLINEAR)
    linear = np.array([[real, -imaginary], [imaginary, real]])
    matrix = np.column_stack([linear, target_mean - linear @ source_mean])
    residual = transform_points(source, matrix) - target
    residual_px = float(np.sqrt((residual**2).sum(axis=1).mean()))
    return SimilarityFit(matrix, residual_px, _verdict(p, q, matrix))


def _verdict(p: Float64, q: Float64, matrix: Float64) -> FitVerdict:
    first, second = np.linalg.svd(p, compute_uv=False)
    if second < COLLINEAR_RATIO * first:
        return FitVerdict.COLLINEAR
    # Umeyama's sign test: a negative determinant of the covariance asks for a reflection.
    if np.linalg.det(q.T @ p) < 0:
        return FitVerdict.MIRRORED
    if np.hypot(matrix[0, 0], matrix[1, 0]) > MAX_ENLARGEMENT:
        return FitVerdict.TINY
    return FitVerdict.VALID


def compose(outer: ArrayLike, inner: ArrayLike) -> Float64:
    """The map that applies `inner`, then `outer`; (..., 2, 3) float64, broadcasting."""
    a, b = np.asarray(outer, dtype=np.float64), np.asarray(inner, dtype=np.float64)
    linear = a[..., :2] @ b[..., :2]
    offset = a[..., :2] @ b[..., 2:] + a[..., 2:]
    return np.concatenate([linear, offset], axis=-1)


def invert(matrix: ArrayLike) -> Float64:
    """The inverse map, (..., 2, 3) float64.

    Raises:
        GeometryError: a matrix is singular or not finite.
    """
    m = np.asarray(matrix, dtype=np.float64)
    determinant = m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]
    if not np.isfinite(m).all() or not determinant.all():
        raise GeometryError("a 2x3 matrix is singular or not finite, so it has no inverse")
    inverse = np.empty(m.shape)
    inverse[..., 0, 0], inverse[..., 0, 1] = m[..., 1, 1], -m[..., 0, 1]
    inverse[..., 1, 0], inverse[..., 1, 1] = -m[..., 1, 0], m[..., 0, 0]
    inverse[..., :2] /= determinant[..., None, None]
    inverse[..., 2:] = -(inverse[..., :2] @ m[..., 2:])
    return inverse


def crop_affine(x0: float, y0: float) -> Float64:
    """Crop from image, edges: the corner (x0, y0) becomes the origin."""
    return np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0]])


def resize_affine(scale_x: float, scale_y: float) -> Float64:
    """Resized from image, edges: u' = scale u."""
    return np.array([[scale_x, 0.0, 0.0], [0.0, scale_y, 0.0]])


def flip_affine(width: float) -> Float64:
    """Mirrored from image, edges: u' = width - u."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0]])


def to_pixel_centers(matrix_edge: ArrayLike) -> Float64:
    """The same map between pixel-centre coordinates: move by half a pixel, map, move back."""
    m = np.asarray(matrix_edge, dtype=np.float64)
    offset = m[..., :2] @ np.array([[0.5], [0.5]]) + m[..., 2:] - 0.5
    return np.concatenate([m[..., :2], offset], axis=-1)


def transform_points(points: ArrayLike, matrix: ArrayLike) -> Float64:
    """Points (..., 2) moved by one matrix (2, 3); both in the same convention."""
    p, m = np.asarray(points, dtype=np.float64), np.asarray(matrix, dtype=np.float64)
    return p @ m[:, :2].T + m[:, 2]


def transform_landmarks(landmarks: ArrayLike, matrix_edge: ArrayLike) -> Float64:
    """Landmarks (N, 5, 2), pixel centres, moved by an image map given in edges.

    Left and right are not swapped: after a mirror image use `swap_left_right`.
    """
    return transform_points(landmarks, to_pixel_centers(matrix_edge))


def swap_left_right(landmarks: ArrayLike) -> Float64:
    """Landmarks (N, 5, 2) with the eyes and the mouth corners exchanged."""
    return np.asarray(landmarks, dtype=np.float64)[:, [1, 0, 2, 4, 3]]


def transform_boxes(box_xyxy: ArrayLike, matrix_edge: ArrayLike) -> Float64:
    """Axis-aligned hulls (N, 4) of boxes (N, 4) moved by an image map; edges."""
    boxes = np.asarray(box_xyxy, dtype=np.float64).reshape(-1, 4)
    return quad_boxes(transform_points(box_quads(boxes), matrix_edge))


def box_quads(box_xyxy: ArrayLike) -> Float64:
    """Corners (N, 4, 2) of boxes (N, 4), clockwise from the top left; edges."""
    return np.asarray(box_xyxy, dtype=np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def quad_boxes(quads: ArrayLike) -> Float64:
    """Axis-aligned hulls (N, 4) of quads (N, 4, 2); edges."""
    q = np.asarray(quads, dtype=np.float64).reshape(-1, 4, 2)
    return np.concatenate([q.min(axis=1), q.max(axis=1)], axis=-1)


def clip_boxes(box_xyxy: ArrayLike, width: float, height: float) -> Float64:
    """Boxes (N, 4) cut to the image [0, width] x [0, height]; a box outside becomes empty."""
    return np.clip(np.asarray(box_xyxy, dtype=np.float64), 0.0, [width, height, width, height])


def box_areas(box_xyxy: ArrayLike) -> Float64:
    """Areas (N,) of boxes (N, 4), square pixels; an inverted box has area 0."""
    b = np.asarray(box_xyxy, dtype=np.float64)
    return np.maximum(b[:, 2] - b[:, 0], 0.0) * np.maximum(b[:, 3] - b[:, 1], 0.0)


def area_fraction(box_xyxy: ArrayLike, width: float, height: float) -> Float64:
    """Area(box) / Area(image), (N,) in [0, 1] for boxes inside the image (paper, section 3.2.1)."""
    return box_areas(box_xyxy) / (float(width) * float(height))


def move_crop_from_image(crop_from_image: ArrayLike, image_matrix_edge: ArrayLike) -> Float64:
    """Canvas maps (N, 2, 3) of an image that itself moved by `image_matrix_edge` (new from old).

    A' = A o G^-1, so that the canvas shows the same face whatever crop, resize or mirror image the
    loader applied. Under a mirror image the canvas stays unmirrored.
    """
    return compose(crop_from_image, invert(to_pixel_centers(image_matrix_edge)))


def grid_sample_theta(
    crop_from_image: ArrayLike,
    image_size: tuple[int, int],
    canvas_size: tuple[int, int] = (CANVAS_PX, CANVAS_PX),
) -> Float64:
    """Maps (N, 2, 3) for `torch.nn.functional.affine_grid(..., align_corners=False)`.

    This is the only place where pixel-centre coordinates become normalised ones: pixel centre u of
    an axis of n pixels is (2 u + 1) / n - 1. The result takes normalised canvas coordinates to
    normalised image coordinates.

    Args:
        crop_from_image: (N, 2, 3) canvas from image, pixel centres.
        image_size: (height, width) of the image that is sampled, pixels.
        canvas_size: (height, width) of the canvas, pixels.
    """
    image_from_crop = invert(crop_from_image)
    return compose(
        _normalised_from_pixels(image_size),
        compose(image_from_crop, _pixels_from_normalised(canvas_size)),
    )


def _normalised_from_pixels(size: tuple[int, int]) -> Float64:
    height, width = size
    return np.array(
        [[2.0 / width, 0.0, 1.0 / width - 1.0], [0.0, 2.0 / height, 1.0 / height - 1.0]]
    )


def _pixels_from_normalised(size: tuple[int, int]) -> Float64:
    half_height, half_width = size[0] / 2.0, size[1] / 2.0
    return np.array([[half_width, 0.0, half_width - 0.5], [0.0, half_height, half_height - 0.5]])


def warp_affine(
    image: NDArray[np.uint8],
    crop_from_image: ArrayLike,
    size: tuple[int, int] = (CANVAS_PX, CANVAS_PX),
) -> NDArray[np.uint8]:
    """The aligned crop, (height, width, C) uint8: inverse warping, bilinear, black outside.

    Equal to OpenCV 4's `cv2.warpAffine(image, crop_from_image, (width, height))` within one grey
    level on any image: like OpenCV it samples at positions rounded to 1/32 pixel, which at a sharp
    edge is worth several grey levels.

    Args:
        image: (H, W, C) uint8.
        crop_from_image: (2, 3) canvas from image, pixel centres.
        size: (height, width) of the canvas, pixels.
    """
    height, width = size
    points = _sampled_positions(invert(crop_from_image), height, width)
    corner = np.floor(points).astype(np.int64)
    fraction = points - corner
    crop = np.zeros((height, width, image.shape[2]))
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dx - fraction[..., 0]) * np.abs(1 - dy - fraction[..., 1])
            crop += weight[..., None] * _pixels_or_black(image, corner + np.array([dx, dy]))
    return np.clip(np.rint(crop), 0, 255).astype(np.uint8)


def _sampled_positions(image_from_crop: Float64, height: int, width: int) -> Float64:
    """Where OpenCV reads each canvas pixel, (height, width, 2): fixed point, then 1/32 px."""
    along_x = np.rint(image_from_crop[:, 0] * np.arange(width)[:, None] * _FIXED_POINT)
    along_y = np.rint(
        (image_from_crop[:, 1] * np.arange(height)[:, None] + image_from_crop[:, 2]) * _FIXED_POINT
    )
    half = _FIXED_POINT // _SUBPIXELS // 2
    fixed = (along_x[None, :] + along_y[:, None]).astype(np.int64) + half
    return (fixed // (_FIXED_POINT // _SUBPIXELS)) / _SUBPIXELS


def _pixels_or_black(image: NDArray[np.uint8], xy: NDArray[np.int64]) -> Float64:
    x, y = xy[..., 0], xy[..., 1]
    inside = (x >= 0) & (x < image.shape[1]) & (y >= 0) & (y < image.shape[0])
    picked = image[np.where(inside, y, 0), np.where(inside, x, 0)]
    return np.where(inside[..., None], picked, 0).astype(np.float64)
