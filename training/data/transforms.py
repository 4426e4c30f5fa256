"""Random windows of an image; pixels and regions move together through one 2x3 affine.

The affine G (new from old, edge coordinates) of a window is resize o crop, then a mirror image
where asked for. Pixels go through Pillow's resize, boxes through G, canvas maps through G^-1: see
`annotations_schema.geometry`. Everything is a pure function of the image, the regions and a random
generator, and the generator is a pure function of (seed, stream position).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from annotations_schema import geometry
from annotations_schema.errors import UsageError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

# Normalised canvas coordinates: the middles of stretches of four pixels.
_CANVAS_TICKS = np.arange(4.0, 2 * geometry.CANVAS_PX, 8.0) / geometry.CANVAS_PX - 1.0
_ROUNDING_PX = 1e-6  # a window chosen so that a region just reaches its least size keeps it


@dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """How a training window is chosen and which of its regions count; not stated by the paper."""

    size_px: int = 256
    """Side of the square training image, pixels. 256 is the resolution of the network's config."""
    min_window: float = 0.5
    """Smallest window, as a share of the image's short side, in (0, 1]. Half keeps whole objects in
    view and still varies the scale by two."""
    max_window: float = 1.0
    """Largest window, alike, at least `min_window`; the whole short side sees every text whole."""
    region_focus: float = 0.5
    """Probability that the window is placed on a region of an image that has any, in [0, 1]. Text
    and faces cover a few percent of a picture: uniform windows would mostly miss them."""
    mirror_probability: float = 0.5
    """Probability of a mirror image, in [0, 1]; only for images known to hold no text."""
    min_visible: float = 0.5
    """Share of a text box that must lie in the window, in (0, 1]."""
    min_text_px: float = 8.0
    """Least height of the visible text box in the training image, pixels: below about 8 px nobody
    reads Latin letters."""
    min_face_px: float = 20.0
    """Least longer side of the visible face box in the training image, pixels: the canvas enlarges
    it to about 112, and below 20 px that is mostly interpolation."""
    min_canvas_inside: float = 0.6
    """Share of the 112 x 112 face canvas that must lie in the window, in (0, 1]."""

    def __post_init__(self) -> None:
        for name in ("min_window", "max_window", "min_visible", "min_canvas_inside"):
            _require(name, getattr(self, name), 0.0 < getattr(self, name) <= 1.0, "(0, 1]")
        for name in ("region_focus", "mirror_probability"):
            _require(name, getattr(self, name), 0.0 <= getattr(self, name) <= 1.0, "[0, 1]")
        for name in ("size_px", "min_text_px", "min_face_px"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "[1, inf)")
        if self.min_window > self.max_window:
            raise UsageError(
                f"crop.min_window={self.min_window} is above max_window={self.max_window}; lower it"
            )


def _require(name: str, value: float, holds: bool, allowed: str) -> None:
    if not holds:
        raise UsageError(f"crop.{name}={value} is outside {allowed}; set a value inside")


class Annotation(NamedTuple):
    """What is known of an image before it is decoded, in the frame of `annotations_schema`.

    Fields as those of `AnnotatedImage`; width and height in pixels.
    """

    image_id: str
    width: int
    height: int
    text_boxes: Float32
    face_boxes: Float32
    crop_from_image: Float64
    is_text_free: bool


class AnnotatedImage(NamedTuple):
    """A decoded image and its regions, in the frame of `annotations_schema`.

    image_id: 32 hex digits.
    image: (H, W, 3) uint8 RGB, EXIF orientation applied.
    text_boxes: (R, 4) float32, edges, pixels.
    face_boxes: (M, 4) float32, edges, pixels; valid faces only.
    crop_from_image: (M, 2, 3) float64, canvas from image, pixel centres.
    is_text_free: a text detector looked and found none; unknown counts as False.
    """

    image_id: str
    image: UInt8
    text_boxes: Float32
    face_boxes: Float32
    crop_from_image: Float64
    is_text_free: bool

    @property
    def annotation(self) -> Annotation:
        """All but the pixels."""
        height, width = self.image.shape[:2]
        return Annotation(self.image_id, width, height, *self[2:])


class Window(NamedTuple):
    """A square of the image: corner (x0, y0) and side in whole pixels; mirrored or not."""

    x0: int
    y0: int
    side_px: int
    is_mirrored: bool


class Sample(NamedTuple):
    """One training item: the window's pixels and the regions that are visible in it.

    image_id: 32 hex digits.
    image: (size, size, 3) uint8 RGB.
    text_boxes: (R, 4) float32, edges, pixels of `image`, clipped to it.
    text_weight: (R,) float32, area of the clipped box / area of `image`, in (0, 1].
    crop_from_image: (M, 2, 3) float64, canvas from `image`, pixel centres.
    face_theta: (M, 2, 3) float32, `annotations_schema.geometry.grid_sample_theta` of it.
    face_weight: (M,) float32, area of the clipped face box / area of `image`, in [0, 1].
    """

    image_id: str
    image: UInt8
    text_boxes: Float32
    text_weight: Float32
    crop_from_image: Float64
    face_theta: Float32
    face_weight: Float32


def random_sample(
    annotated: AnnotatedImage, config: CropConfig, *, seed: int, stream_position: int
) -> Sample:
    """The training sample of this image at this stream position; a pure function of both."""
    window = random_window(annotated.annotation, config, seed=seed, stream_position=stream_position)
    return cut_window(annotated, window, config)


def random_window(
    annotation: Annotation, config: CropConfig, *, seed: int, stream_position: int
) -> Window:
    """The window of this image at this stream position; a pure function of its arguments.

    The generator is numpy's Philox keyed by (seed, position): no state travels between samples.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream_position))))
    return choose_window(rng, annotation, config)


def choose_window(rng: np.random.Generator, annotation: Annotation, config: CropConfig) -> Window:
    """A random window; always inside the image, placed on a region with `region_focus`.

    A window on a region is small enough that the region keeps the least height (text) or side
    (face) that `CropConfig` asks for, as far as that needs no enlargement beyond the stored pixels.
    """
    short = min(annotation.height, annotation.width)
    smallest, largest = (max(1, round(s * short)) for s in (config.min_window, config.max_window))
    focus = _pick_region(rng, annotation, config)
    if focus is not None:
        fitting = max(min(config.size_px, short), min(short, int(focus.largest_window_px)))
        largest = min(largest, fitting)
        smallest = min(smallest, largest)
    side = int(rng.integers(smallest, largest, endpoint=True))
    box = None if focus is None else focus.box_xyxy
    x0 = _corner(rng, side, annotation.width, None if box is None else (box[0], box[2]))
    y0 = _corner(rng, side, annotation.height, None if box is None else (box[1], box[3]))
    mirrored = annotation.is_text_free and rng.random() < config.mirror_probability
    return Window(x0, y0, side, bool(mirrored))


class _Focus(NamedTuple):
    box_xyxy: Float32
    largest_window_px: float


def _pick_region(
    rng: np.random.Generator, annotation: Annotation, config: CropConfig
) -> _Focus | None:
    """One region of the image, text and faces alike, or None for a window anywhere."""
    num_text, num_faces = len(annotation.text_boxes), len(annotation.face_boxes)
    if num_text + num_faces == 0 or rng.random() >= config.region_focus:
        return None
    picked = int(rng.integers(num_text + num_faces))
    if picked < num_text:
        box = annotation.text_boxes[picked]
        return _Focus(box, config.size_px * float(box[3] - box[1]) / config.min_text_px)
    box = annotation.face_boxes[picked - num_text]
    longer = float(max(box[2] - box[0], box[3] - box[1]))
    return _Focus(box, config.size_px * longer / config.min_face_px)


def _corner(
    rng: np.random.Generator, side: int, length: int, interval: tuple[float, float] | None
) -> int:
    """A corner in [0, length - side] that keeps the interval, or at least its middle, inside."""
    low, high = 0, length - side
    if interval is not None:
        start, end = interval
        if end - start > side:
            start = end = (start + end) / 2
        low = int(np.clip(np.ceil(end - side), 0, high))
        high = int(np.clip(np.floor(start), low, high))
    return int(rng.integers(low, high, endpoint=True))


def window_affine(window: Window, size_px: int) -> Float64:
    """G (2, 3) float64: training image from stored image, edge coordinates."""
    scale = size_px / window.side_px
    resize, crop = geometry.resize_affine(scale, scale), geometry.crop_affine(window.x0, window.y0)
    matrix = geometry.compose(resize, crop)
    return geometry.compose(geometry.flip_affine(size_px), matrix) if window.is_mirrored else matrix


def cut_window(annotated: AnnotatedImage, window: Window, config: CropConfig) -> Sample:
    """The sample of one window of a decoded image."""
    rows, columns = (slice(at, at + window.side_px) for at in (window.y0, window.x0))
    return cut(annotated.annotation, window, annotated.image[rows, columns], config)


def cut(annotation: Annotation, window: Window, pixels: UInt8, config: CropConfig) -> Sample:
    """The sample of one window: its pixels, and the regions that stay usable in it.

    Args:
        annotation: of the whole image.
        window: the part of it.
        pixels: (side, side, 3) uint8 RGB of that part, not mirrored.
        config: which regions are usable.
    """
    size = (config.size_px, config.size_px)
    matrix = window_affine(window, config.size_px)
    stored_boxes = np.concatenate([annotation.text_boxes, annotation.face_boxes])
    clipped = geometry.clip_boxes(geometry.transform_boxes(stored_boxes, matrix), *size)
    boxes, face_boxes = np.split(clipped, [len(annotation.text_boxes)])
    keep = _usable_text(annotation.text_boxes, boxes, window, config)
    crop_from_image = geometry.move_crop_from_image(annotation.crop_from_image, matrix)
    face_theta = geometry.grid_sample_theta(crop_from_image, size)
    keep_face = _usable_faces(face_boxes, face_theta, config)
    return Sample(
        image_id=annotation.image_id,
        image=_resized(pixels, window, config.size_px),
        text_boxes=boxes[keep].astype(np.float32),
        text_weight=geometry.area_fraction(boxes[keep], *size).astype(np.float32),
        crop_from_image=crop_from_image[keep_face],
        face_theta=face_theta[keep_face].astype(np.float32),
        face_weight=geometry.area_fraction(face_boxes[keep_face], *size).astype(np.float32),
    )


def _resized(pixels: UInt8, window: Window, size_px: int) -> UInt8:
    if window.side_px != size_px:
        # The filter widens when it reduces, so thin strokes do not alias. On bytes in this memory
        # order torch's equal Pillow's within one grey level, at a fifth of the time. Read-only
        # pixels are copied first: torch has no such tensors, and warns.
        batch = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)[None]
        resized = F.interpolate(batch, (size_px, size_px), mode="bicubic", antialias=True)
        pixels = resized[0].permute(1, 2, 0).contiguous().numpy()
    return np.ascontiguousarray(pixels[:, ::-1] if window.is_mirrored else pixels)


def _usable_text(stored: Float32, clipped: Float64, window: Window, config: CropConfig) -> Bool:
    whole = geometry.box_areas(stored) * (config.size_px / window.side_px) ** 2
    visible = geometry.box_areas(clipped) >= config.min_visible * np.maximum(whole, 1e-12)
    return visible & (clipped[:, 3] - clipped[:, 1] >= config.min_text_px - _ROUNDING_PX)


def _usable_faces(clipped: Float64, theta: Float64, config: CropConfig) -> Bool:
    sides = np.maximum(clipped[:, 2] - clipped[:, 0], clipped[:, 3] - clipped[:, 1])
    is_large = sides >= config.min_face_px - _ROUNDING_PX
    return is_large & (canvas_inside(theta) >= config.min_canvas_inside)


def canvas_inside(theta: Float64) -> Float64:
    """Share (M,) of each face canvas that samples inside the image, in [0, 1].

    Estimated on every fourth canvas pixel in both directions.

    Args:
        theta: (M, 2, 3) of `annotations_schema.geometry.grid_sample_theta`.
    """
    along_x = theta[:, :, :1] * _CANVAS_TICKS  # (M, 2, T)
    along_y = theta[:, :, 1:2] * _CANVAS_TICKS + theta[:, :, 2:]
    points = along_x[:, :, None] + along_y[..., None]  # (M, 2, T, T), normalised
    share: Float64 = (np.abs(points) <= 1.0).all(axis=1).mean(axis=(1, 2))
    return share
