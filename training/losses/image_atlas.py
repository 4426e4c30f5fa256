"""All images of a batch in one picture, each with its smaller copies, to be sampled in one call.

Legend: B images of H x W pixels, N regions of h x w samples. Sampling one picture needs no copy of
an image per region and no number of regions per image, so shapes are static. Positions in a tall
picture are rounded to about B H / 2^24 pixels.

An image's place holds level 0, the image, and to its right, one below the other, levels 1, 2, ...,
each the 2 x 2 means of the level before. A black border surrounds every level.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLACK = -1.0
"""Value of black pixels, which images in [-1, 1] are surrounded by."""


class Level(NamedTuple):
    """Where a level lies in its image's place, pixels: its first column and row, and its size."""

    left: int
    top: int
    width: int
    height: int


class Layout(NamedTuple):
    """The places of a batch of images: every image has the same, one above the other."""

    levels: tuple[Level, ...]
    width: int
    height: int


def layout_of(height: int, width: int, num_levels: int) -> Layout:
    """The layout for images of a size with levels 0 ... num_levels - 1."""
    levels = [Level(1, 1, width, height)]
    top = 1
    for number in range(1, num_levels):
        size = (-(-width // 2**number), -(-height // 2**number))
        levels.append(Level(width + 2, top, *size))
        top += size[1] + 1
    right = max(level.left + level.width for level in levels) + 1
    return Layout(tuple(levels), right, max(top, height + 1) + 1)


def sample(
    images: Tensor, layout: Layout, points: Tensor, level: Tensor, image_index: Tensor
) -> Tensor:
    """(N, C, h, w): bilinear samples of one level of one image per region, black outside of it.

    Args:
        images: (B, C, H, W) in [-1, 1], at least float32.
        layout: for that size.
        points: (N, h, w, 2) x, y in pixels of level 0, edges at 0 and W or H.
        level: (N,) int64 within the layout.
        image_index: (N,) int64.
    """
    count, height, width = points.shape[:3]
    x, y = points.unbind(-1)

    def of_level(values: list[int]) -> Tensor:
        picked = [value * (level == number) for number, value in enumerate(values)]
        return torch.stack(picked).sum(0).to(points.dtype)[:, None, None]

    shrunk = of_level([2**number for number in range(len(layout.levels))])
    # A pixel outside of the level is as black as the border, and the border ends one pixel out.
    x = (x / shrunk - 0.5).clamp_min(-1.0).minimum(of_level([at.width for at in layout.levels]))
    y = (y / shrunk - 0.5).clamp_min(-1.0).minimum(of_level([at.height for at in layout.levels]))
    x = x + of_level([at.left for at in layout.levels])
    y = y + of_level([at.top for at in layout.levels]) + image_index[:, None, None] * layout.height
    scaled = [(2 * x + 1) / layout.width - 1, (2 * y + 1) / (layout.height * len(images)) - 1]
    grid = torch.stack(scaled, -1).view(1, count * height, width, 2)
    levels = [images]
    while len(levels) < len(layout.levels):
        half = F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False)
        levels.append(half)
    sampled = F.grid_sample(_Atlas.apply(layout, *levels), grid, align_corners=False)
    return sampled.view(images.shape[1], count, height, width).transpose(0, 1)


def sample_axes(images: Tensor, x: Tensor, y: Tensor, image_index: Tensor) -> Tensor:
    """(N, C, h, w): bilinear samples of one image per region on a grid of columns and rows.

    Args:
        images: (B, C, H, W), at least float32.
        x: (N, w) columns in pixels, edges at 0 and W; held half a pixel inside, so that nothing
            beyond the image is read.
        y: (N, h) rows likewise.
        image_index: (N,) int64.
    """
    count, channels, height, width = images.shape
    size = (len(x), y.shape[1], x.shape[1])
    # Placed along each axis before they meet in the grid, which has many more elements.
    x = (x * (2 / width) - 1)[:, None, :].expand(size)
    y = ((y + image_index[:, None] * height) * (2 / (count * height)) - 1)[:, :, None].expand(size)
    grid = torch.stack([x, y], -1).view(1, size[0] * size[1], size[2], 2)
    tall = images.transpose(0, 1).reshape(1, channels, count * height, width)
    sampled = F.grid_sample(tall, grid, align_corners=False)
    return sampled.view(channels, *size).transpose(0, 1)


class _Atlas(torch.autograd.Function):
    """Levels, (B, C, H_l, W_l) each -> (1, C, B * layout.height, layout.width).

    Autograd's own rule for writing into parts of a tensor copies the whole gradient per part; here
    the gradients are views of it.
    """

    @staticmethod
    def forward(layout: Layout, *levels: Tensor) -> Tensor:
        count, channels = levels[0].shape[:2]
        shape = (channels, count, layout.height, layout.width)
        atlas = levels[0].new_full(shape, BLACK)
        for at, level in zip(layout.levels, levels, strict=True):
            _part(atlas, at).copy_(level.transpose(0, 1))
        return atlas.view(1, channels, count * layout.height, layout.width)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.layout = inputs[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layout = ctx.layout
        places = gradient.view(gradient.shape[1], -1, layout.height, layout.width)
        return None, *(_part(places, at).transpose(0, 1) for at in layout.levels)


def _part(places: Tensor, at: Level) -> Tensor:
    return places[:, :, at.top : at.top + at.height, at.left : at.left + at.width]
