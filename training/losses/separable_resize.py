"""Antialiased resizing of many boxes as two matrix products each: rows . image . columns^T.

Legend: B images of H x W pixels, R boxes, h x w output pixels. Static shapes, no wait for the
device, and no atomic additions, so gradients on CUDA are the same in every run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Elements of image copies held at once, by `is_cuda`: 8 MiB, about a CPU's cache, or 256 MiB.
_MAX_COPIED = {False: 2**21, True: 2**26}
_TINY = torch.finfo(torch.float32).tiny


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
    with torch.no_grad():
        scale = (end - start) / out_length
        steps = torch.arange(out_length, dtype=start.dtype, device=start.device) + 0.5
        pixels = torch.arange(length, dtype=start.dtype, device=start.device)
        centers = start[:, None] + steps * scale[:, None]
        is_touched = (pixels + 1 > start[:, None]) & (pixels < end[:, None])
        # Pixels out of sight lie infinitely far away.
        pixels = torch.where(is_touched, pixels + 0.5, torch.inf)
        # In place, and with the sign turned round until the division: this is most of the work.
        weights = pixels[:, None, :] - centers[..., None]
        weights.abs_().div_(scale.clamp_min(1.0)[:, None, None]).sub_(1.0).clamp_max_(0.0)
        return weights.div_(weights.sum(-1, keepdim=True).clamp_max_(-_TINY))


def separable_resize(images: Tensor, rows: Tensor, columns: Tensor, image_index: Tensor) -> Tensor:
    """(R, C, h, w): rows . image . columns^T of one image per box.

    Args:
        images: (B, C, H, W), at least float32.
        rows: (R, h, H) like the images; no gradient flows to it.
        columns: (R, w, W) like the images; no gradient flows to it.
        image_index: (R,) int64.
    """
    resized: Tensor = _SeparableResize.apply(images, rows, columns, image_index)
    return resized


class _SeparableResize(torch.autograd.Function):
    """Some boxes at a time, so that the copies of their images stay in cache both ways."""

    @staticmethod
    def forward(images: Tensor, rows: Tensor, columns: Tensor, image_index: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        # Channels beside the columns: one product serves them all.
        pixels = images.transpose(1, 2).reshape(count, height, channels * width)
        out_height, out_width = rows.shape[1], columns.shape[1]
        parts = _boxes_at_once(height * channels * width, images.is_cuda)
        banners = []
        for row, column, index in zip(
            torch.split(rows, parts),
            torch.split(columns, parts),
            torch.split(image_index, parts),
            strict=True,
        ):
            # Rows first, since a banner has fewer rows than columns.
            strips = torch.bmm(row, pixels.index_select(0, index))
            strips = strips.view(len(row), out_height * channels, width)
            banners.append(torch.bmm(strips, column.transpose(1, 2)))
        banner = torch.cat(banners).view(len(rows), out_height, channels, out_width)
        return banner.transpose(1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        images, *maps = inputs
        ctx.save_for_backward(*maps)
        ctx.size = images.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        rows, columns, image_index = ctx.saved_tensors
        count, channels, height, width = ctx.size
        out_height, out_width = rows.shape[1], columns.shape[1]
        flat = gradient.transpose(1, 2).reshape(len(rows), out_height * channels, out_width)
        # A product with 0 and 1 adds up what belongs to one image in a fixed order.
        images = torch.arange(count, device=rows.device)
        membership = (images[:, None] == image_index).to(rows.dtype)
        total = gradient.new_zeros(count, height * channels * width)
        parts = _boxes_at_once(height * channels * width, gradient.is_cuda)
        for part, row, column, members in zip(
            torch.split(flat, parts),
            torch.split(rows, parts),
            torch.split(columns, parts),
            torch.split(membership, parts, dim=1),
            strict=True,
        ):
            strips = torch.bmm(part, column).view(len(row), out_height, channels * width)
            total.addmm_(members, torch.bmm(row.transpose(1, 2), strips).flatten(1))
        pixels = total.view(count, height, channels, width).transpose(1, 2)
        return pixels, None, None, None


def _boxes_at_once(image_elements: int, is_cuda: bool) -> int:
    return max(1, _MAX_COPIED[is_cuda] // image_elements)
