"""Batches with ragged regions: flat arrays and an image index, no padding.

Legend: B images, R text regions, M face regions, all of the batch together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.transforms import Sample


class RegionBatch(NamedTuple):
    """The regions of a batch.

    text_boxes: (R, 4) float32, edges, pixels of the training image.
    text_image: (R,) int64, index of the image in the batch.
    text_weight: (R,) float32, visible area / image area, in (0, 1].
    face_theta: (M, 2, 3) float32, normalised canvas to normalised image coordinates, for
        `torch.nn.functional.affine_grid(..., align_corners=False)`.
    face_image: (M,) int64.
    face_weight: (M,) float32, visible area / image area, in [0, 1].
    """

    text_boxes: Tensor
    text_image: Tensor
    text_weight: Tensor
    face_theta: Tensor
    face_image: Tensor
    face_weight: Tensor

    def to(self, device: torch.device | str) -> RegionBatch:
        """The same regions on another device; the copy does not block where memory is pinned."""
        return RegionBatch(*(field.to(device, non_blocking=True) for field in self))


class Batch(NamedTuple):
    """A training batch.

    images: (B, 3, H, W) float32 RGB in [-1, 1].
    regions: the regions of all images.
    image_ids: B strings.
    """

    images: Tensor
    regions: RegionBatch
    image_ids: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; the copy does not block where memory is pinned."""
        images = self.images.to(device, non_blocking=True)
        return Batch(images, self.regions.to(device), self.image_ids)


class DroppedRegions(NamedTuple):
    """Regions left out because the batch had more than its cap: counts and summed area weights."""

    num_text: int
    num_faces: int
    text_weight: float
    face_weight: float


class Collated(NamedTuple):
    """A batch and what had to be left out of it."""

    batch: Batch
    dropped: DroppedRegions


def collate(samples: Sequence[Sample], *, max_text: int, max_faces: int) -> Collated:
    """One batch of samples of equal size; of too many regions the largest by weight stay.

    The order of the regions that stay is that of the samples. Ties keep the earlier region.
    """
    text_weight = _joined([s.text_weight for s in samples])
    face_weight = _joined([s.face_weight for s in samples])
    text, faces = _largest(text_weight, max_text), _largest(face_weight, max_faces)
    regions = RegionBatch(
        text_boxes=_tensor(_joined([s.text_boxes for s in samples])[text]),
        text_image=_tensor(_image_index([len(s.text_weight) for s in samples])[text]),
        text_weight=_tensor(text_weight[text]),
        face_theta=_tensor(_joined([s.face_theta for s in samples])[faces]),
        face_image=_tensor(_image_index([len(s.face_weight) for s in samples])[faces]),
        face_weight=_tensor(face_weight[faces]),
    )
    images = to_model_range(np.stack([s.image for s in samples]))
    return Collated(
        Batch(images, regions, tuple(s.image_id for s in samples)),
        DroppedRegions(
            num_text=len(text_weight) - len(text),
            num_faces=len(face_weight) - len(faces),
            text_weight=_left_out(text_weight, text),
            face_weight=_left_out(face_weight, faces),
        ),
    )


def to_model_range(images: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 in [0, 255] -> (B, 3, H, W) float32 in [-1, 1], contiguous."""
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return channels_first.to(torch.float32).div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) float in about [-1, 1] -> (B, H, W, 3) uint8, clipped and rounded."""
    scaled = (images.detach().to(torch.float32) + 1.0) * 127.5
    pixels: NDArray[np.uint8] = (
        scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels


def _joined(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(arrays, axis=0)


def _image_index(counts: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def _largest(weights: NDArray[np.float32], cap: int) -> NDArray[np.int64]:
    return np.sort(np.argsort(-weights, kind="stable")[:cap])


def _left_out(weights: NDArray[np.float32], kept: NDArray[np.int64]) -> float:
    return float(np.delete(weights, kept).sum(dtype=np.float64))


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
