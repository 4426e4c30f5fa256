"""Crops of regions as linear, differentiable maps of the images.

Legend: B images of H x W pixels, R text boxes, M faces, h x w output pixels.
Both functions are linear in the pixels and take nothing but pixels of their region, so gradients
stay inside it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.models.precision import at_least_float32

BANNER_SIZE = (32, 128)
"""(height, width) of a text banner: the input of the paper's recogniser."""
CANVAS_SIZE = (112, 112)
"""(height, width) of an aligned face: the canvas of the ArcFace template."""

# More samples than 4 x 4 per canvas pixel would serve faces above 448 px only.
_MAX_SUPERSAMPLING = 4


def text_banners(
    images: Tensor, boxes: Tensor, image_index: Tensor, size: tuple[int, int] = BANNER_SIZE
) -> Tensor:
    """Each box cut out and resized to one size, antialiased where it shrinks, bilinear where not.

    Equal to cropping and `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` (and
    so to Pillow's bilinear resize) for whole-pixel boxes; other boxes use the pixels they touch.
    A box that touches no pixel of its image gives zeros.

    Args:
        images: (B, 3, H, W).
        boxes: (R, 4) x0, y0, x1, y1, edges in pixels of the images.
        image_index: (R,) int64.
        size: (h, w) of the banners.

    Returns:
        (R, 3, h, w), at least float32.
    """
    height, width = images.shape[2:]
    with _full_precision(images):
        images = at_least_float32(images)
        boxes = boxes.to(images)
        rows = resize_matrices(boxes[:, 1], boxes[:, 3], height, size[0])
        columns = resize_matrices(boxes[:, 0], boxes[:, 2], width, size[1])
        # index_select, not images[image_index]: its gradient is a sum, without a sort on CUDA.
        pixels = images.index_select(0, image_index)
        # Rows first, since a banner has fewer rows than columns.
        return rows[:, None] @ pixels @ columns[:, None].transpose(2, 3)


def resize_matrices(start: Tensor, end: Tensor, length: int, out_length: int) -> Tensor:
    """(R, out_length, length): row i averages the pixels that output pixel i sees of [start, end).

    The filter is a triangle as wide as two output pixels, at least two input pixels, on the pixels
    that the interval touches; a row sums to 1, or to 0 where it sees none of them.

    Args:
        start: (R,) edge coordinate where each interval begins.
        end: (R,) edge coordinate where it ends.
        length: number of input pixels.
        out_length: number of output pixels.
    """
    scale = (end - start) / out_length
    steps = torch.arange(out_length, dtype=start.dtype, device=start.device) + 0.5
    pixels = torch.arange(length, dtype=start.dtype, device=start.device)
    centers = start[:, None] + steps * scale[:, None]
    support = scale.clamp_min(1.0)
    offset = (pixels + 0.5 - centers[..., None]) / support[:, None, None]
    is_touched = (pixels + 1 > start[:, None]) & (pixels < end[:, None])
    weights = (1.0 - offset.abs()).clamp_min(0.0) * is_touched[:, None]
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def face_canvases(
    images: Tensor, theta: Tensor, image_index: Tensor, size: tuple[int, int] = CANVAS_SIZE
) -> Tensor:
    """Each face warped to its canvas: bilinear, black outside of the image, antialiased.

    A canvas pixel is the mean of k x k samples, k = canvas pixel's width in image pixels, rounded
    up, at most 4. For faces no larger than the canvas that is inverse warping as in
    `cv2.warpAffine`.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        theta: (M, 2, 3) normalised canvas to normalised image, `align_corners=False`.
        image_index: (M,) int64.
        size: (h, w) of the canvases.

    Returns:
        (M, 3, h, w), at least float32.
    """
    with _full_precision(images):
        images = at_least_float32(images)
        theta = theta.to(images)
        factors = _supersampling(theta, images.shape[2:], size)
        canvases = images.new_zeros(len(theta), images.shape[1], *size)
        # Few values exist, and a face's factor must not depend on the other faces of the batch.
        for factor in sorted(set(factors.tolist())):
            faces = (factors == factor).nonzero().squeeze(1)
            pixels = images.index_select(0, image_index.index_select(0, faces))
            warped = _warp(pixels, theta.index_select(0, faces), size, factor)
            canvases = canvases.index_copy(0, faces, warped)
        return canvases


def _warp(images: Tensor, theta: Tensor, size: tuple[int, int], factor: int) -> Tensor:
    samples = [len(theta), images.shape[1], size[0] * factor, size[1] * factor]
    grid = F.affine_grid(theta, samples, align_corners=False)
    # Zeros outside of the range [0, 2] are black; outside of [-1, 1] they would be grey.
    sampled = F.grid_sample(images + 1.0, grid, align_corners=False) - 1.0
    return F.avg_pool2d(sampled, factor)


def _full_precision(images: Tensor) -> torch.autocast:
    """Narrow floats cannot hold pixel coordinates: bfloat16 steps by 2 px from 256 on."""
    return torch.autocast(device_type=images.device.type, enabled=False)


def _supersampling(theta: Tensor, image_size: torch.Size, size: tuple[int, int]) -> Tensor:
    """(M,) int64: image pixels per canvas pixel, rounded up, in 1..4."""
    to_pixels = theta.new_tensor([image_size[1], image_size[0]])[:, None]
    from_pixels = theta.new_tensor([size[1], size[0]])
    steps = theta[:, :, :2] * to_pixels / from_pixels
    stride = steps.square().sum(1).sqrt().amax(1)
    # A tenth of a pixel more than a whole number is not worth another row of samples.
    return (stride - 0.1).ceil().clamp(1, _MAX_SUPERSAMPLING).to(torch.int64)
