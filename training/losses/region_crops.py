"""Crops of regions as linear, differentiable maps of the images.

Legend: B images of H x W pixels, R text boxes, M faces, h x w output pixels.
The maps take nothing but pixels of their region, so gradients stay inside it. Their shapes follow
from the shapes of their arguments alone, and nothing waits for the device. A loss makes its map
once and applies it to the original and to the reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from training.losses.image_atlas import layout_of, sample, sample_axes
from training.losses.separable_resize import resize_matrices, separable_resize
from training.models.precision import at_least_float32

BANNER_SIZE = (32, 128)
"""(height, width) of a text banner: the input of the paper's recogniser."""
CANVAS_SIZE = (112, 112)
"""(height, width) of an aligned face: the canvas of the ArcFace template."""

BannerSampling = Literal["antialiased", "bilinear"]
"""How banners are resized. "antialiased": as Pillow and torch do, so that a shrunk word looks as
recognisers saw words in training. "bilinear": four pixels per banner pixel, whatever the scale;
faster on a CPU, and words larger than the banner alias."""

Crop = Callable[[Tensor], Tensor]
"""(B, 3, H, W) images -> crops, at least float32."""


def text_banners(
    images: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    size: tuple[int, int] = BANNER_SIZE,
    sampling: BannerSampling = "antialiased",
) -> Tensor:
    """(R, 3, h, w), at least float32: `banner_crop` applied to the images it is made for."""
    return banner_crop(images, boxes, image_index, size, sampling)(images)


def banner_crop(
    like: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    size: tuple[int, int] = BANNER_SIZE,
    sampling: BannerSampling = "antialiased",
) -> Crop:
    """The map that cuts each box out and resizes it to one size.

    Antialiased where the box shrinks and bilinear where not, equal to cropping and
    `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` (and so to Pillow's bilinear
    resize) for whole-pixel boxes; other boxes use the pixels they touch. `sampling="bilinear"` is
    the same without `antialias`, up to positions rounded to 1 / 1,000 pixel. A box that touches no
    pixel of its image gives zeros.

    Args:
        like: (B, 3, H, W), of the shape, dtype and device of the images to come.
        boxes: (R, 4) x0, y0, x1, y1, edges in pixels of the images.
        image_index: (R,) int64.
        size: (h, w) of the banners.
        sampling: see `BannerSampling`.
    """
    height, width = like.shape[2:]
    boxes = boxes.to(at_least_float32(like[:0]))
    if sampling == "bilinear":
        x, is_seen_x = _positions(boxes[:, 0], boxes[:, 2], width, size[1])
        y, is_seen_y = _positions(boxes[:, 1], boxes[:, 3], height, size[0])
        is_seen = (is_seen_x & is_seen_y)[:, None, None, None]

        def apply_bilinear(images: Tensor) -> Tensor:
            with _full_precision(images):
                images = at_least_float32(images)
                return torch.where(is_seen, sample_axes(images, x, y, image_index), 0.0)

        return apply_bilinear
    rows = resize_matrices(boxes[:, 1], boxes[:, 3], height, size[0])
    columns = resize_matrices(boxes[:, 0], boxes[:, 2], width, size[1])

    def apply_antialiased(images: Tensor) -> Tensor:
        with _full_precision(images):
            return separable_resize(at_least_float32(images), rows, columns, image_index)

    return apply_antialiased


def face_canvases(
    images: Tensor, theta: Tensor, image_index: Tensor, size: tuple[int, int] = CANVAS_SIZE
) -> Tensor:
    """(M, 3, h, w), at least float32: `canvas_crop` applied to the images it is made for."""
    return canvas_crop(images, theta, image_index, size)(images)


def canvas_crop(
    like: Tensor, theta: Tensor, image_index: Tensor, size: tuple[int, int] = CANVAS_SIZE
) -> Crop:
    """The map that warps each face to its canvas: bilinear, black outside of the image.

    Inverse warping as in `cv2.warpAffine` for faces no larger than the canvas, up to a stride of
    1.4 image pixels per canvas pixel. Larger faces are read from the image halved as often as
    brings the stride nearest to 1, a face twice as large as the canvas from the 2 x 2 means.

    Args:
        like: (B, 3, H, W) in [-1, 1], of the shape, dtype and device of the images to come.
        theta: (M, 2, 3) normalised canvas to normalised image, `align_corners=False`.
        image_index: (M,) int64.
        size: (h, w) of the canvases.
    """
    height, width = like.shape[2:]
    theta = theta.to(at_least_float32(like[:0]))
    across, down = theta[:, 0] * (width / 2), theta[:, 1] * (height / 2)
    x, y = _canvas_positions(size, theta)
    points = torch.stack(
        [
            axis[:, 0, None, None] * x + axis[:, 1, None, None] * y + axis[:, 2, None, None] + half
            for axis, half in ((across, width / 2), (down, height / 2))
        ],
        -1,
    )
    # Canvas columns and rows are steps of 2 / w and 2 / h.
    stride = torch.maximum(
        torch.hypot(across[:, 0], down[:, 0]) * (2 / size[1]),
        torch.hypot(across[:, 1], down[:, 1]) * (2 / size[0]),
    )
    largest = max(height / size[0], width / size[1])
    num_levels = 1 + max(0, round(math.log2(largest)))
    level = torch.zeros_like(image_index)
    for number in range(1, num_levels):
        level = level + (stride > 2 ** (number - 0.5))
    layout = layout_of(height, width, num_levels)

    def apply(images: Tensor) -> Tensor:
        with _full_precision(images):
            return sample(at_least_float32(images), layout, points, level, image_index)

    return apply


def _positions(start: Tensor, end: Tensor, length: int, count: int) -> tuple[Tensor, Tensor]:
    """(R, count) centres of output pixels held on the touched pixels, and (R,) whether any is."""
    steps = torch.arange(count, dtype=start.dtype, device=start.device) + 0.5
    centers = start[:, None] + steps * ((end - start) / count)[:, None]
    first, last = start.floor().clamp_min(0.0), end.ceil().clamp_max(length) - 1.0
    # An empty box touches nothing, though it lies between the two ends of a pixel.
    is_seen = (first <= last) & (start < end)
    return centers.maximum(first[:, None] + 0.5).minimum(last[:, None] + 0.5), is_seen


def _canvas_positions(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """(1, w) x and (h, 1) y of the canvas pixels' centres, normalised."""
    y, x = (
        (2 * torch.arange(length, dtype=like.dtype, device=like.device) + 1) / length - 1
        for length in size
    )
    return x[None, :], y[:, None]


def _full_precision(images: Tensor) -> torch.autocast:
    """Narrow floats cannot hold pixel coordinates: bfloat16 steps by 2 px from 256 on."""
    return torch.autocast(device_type=images.device.type, enabled=False)
