"""Batches with ragged regions: flat arrays and an image index, padded only where shapes must stay.

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

_IDENTITY = np.array([[[1, 0, 0], [0, 1, 0]]], dtype=np.float32)


class RegionBatch(NamedTuple):
    """The regions of a batch.

    text_boxes: (R, 4) float32, edges, pixels of the training image.
    text_image: (R,) int64, index of the image in the batch.
    text_weight: (R,) float32, visible area / image area, in (0, 1]; 0 in padding.
    face_theta: (M, 2, 3) float32, normalised canvas to normalised image coordinates, for
        `torch.nn.functional.affine_grid(..., align_corners=False)`.
    face_image: (M,) int64.
    face_weight: (M,) float32, visible area / image area, in [0, 1]; 0 in padding.
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


class RegionCounts(NamedTuple):
    """Regions in a batch, and those left out of it because it had more than its caps.

    The weights are sums of area weights. The names are those of the metrics.
    """

    num_text: int
    num_faces: int
    dropped_text: int
    dropped_faces: int
    dropped_text_weight: float
    dropped_face_weight: float


class LoadedBatch(NamedTuple):
    """A batch on its way to the device: pixels travel as bytes, a quarter of their later size.

    pixels: (B, H, W, 3) uint8 RGB.
    regions: the regions of all images.
    image_ids: B strings.
    counts: of regions.
    bad_images: errors of the images that had to be replaced.
    """

    pixels: Tensor
    regions: RegionBatch
    image_ids: tuple[str, ...]
    counts: RegionCounts
    bad_images: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; copies do not block where memory is pinned."""
        images = _in_model_range(self.pixels.to(device, non_blocking=True))
        return Batch(images, self.regions.to(device), self.image_ids)


def collate(
    samples: Sequence[Sample], *, max_text: int, max_faces: int, pad_regions: bool = False
) -> LoadedBatch:
    """One batch of samples of equal size; of too many regions the largest by weight stay.

    The order of the regions that stay is that of the samples. Ties keep the earlier region.

    Args:
        samples: B samples.
        max_text: most text regions.
        max_faces: most faces.
        pad_regions: fill up to exactly `max_text` and `max_faces`, so that shapes never change.
            Padding has weight 0, image 0, the whole image as its box and the identity as its map.
    """
    text_weight = np.concatenate([s.text_weight for s in samples])
    face_weight = np.concatenate([s.face_weight for s in samples])
    text, faces = _largest(text_weight, max_text), _largest(face_weight, max_faces)
    height, width = samples[0].image.shape[:2]
    whole_image = np.array([[0, 0, width, height]], dtype=np.float32)
    no_text = max_text - len(text) if pad_regions else 0
    no_faces = max_faces - len(faces) if pad_regions else 0
    boxes = np.concatenate([s.text_boxes for s in samples])[text]
    thetas = np.concatenate([s.face_theta for s in samples])[faces]
    text_image = _image_index([len(s.text_weight) for s in samples])[text]
    face_image = _image_index([len(s.face_weight) for s in samples])[faces]
    return LoadedBatch(
        pixels=torch.from_numpy(np.stack([s.image for s in samples])),
        regions=RegionBatch(
            text_boxes=_tensor(np.concatenate([boxes, whole_image.repeat(no_text, axis=0)])),
            text_image=_tensor(np.pad(text_image, (0, no_text))),
            text_weight=_tensor(np.pad(text_weight[text], (0, no_text))),
            face_theta=_tensor(np.concatenate([thetas, _IDENTITY.repeat(no_faces, axis=0)])),
            face_image=_tensor(np.pad(face_image, (0, no_faces))),
            face_weight=_tensor(np.pad(face_weight[faces], (0, no_faces))),
        ),
        image_ids=tuple(s.image_id for s in samples),
        counts=RegionCounts(
            num_text=len(text),
            num_faces=len(faces),
            dropped_text=len(text_weight) - len(text),
            dropped_faces=len(face_weight) - len(faces),
            dropped_text_weight=_left_out(text_weight, text),
            dropped_face_weight=_left_out(face_weight, faces),
        ),
    )


def to_model_range(images: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 in [0, 255] -> (B, 3, H, W) float32 in [-1, 1], contiguous."""
    return _in_model_range(torch.from_numpy(images))


def _in_model_range(pixels: Tensor) -> Tensor:
    channels_first = pixels.permute(0, 3, 1, 2).contiguous()
    return channels_first.to(torch.float32).div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) float in about [-1, 1] -> (B, H, W, 3) uint8, clipped and rounded."""
    scaled = (images.detach().to(torch.float32) + 1.0) * 127.5
    pixels: NDArray[np.uint8] = (
        scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels


def _image_index(counts: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def _largest(weights: NDArray[np.float32], cap: int) -> NDArray[np.int64]:
    return np.sort(np.argsort(-weights, kind="stable")[:cap])


def _left_out(weights: NDArray[np.float32], kept: NDArray[np.int64]) -> float:
    return float(np.delete(weights, kept).sum(dtype=np.float64))


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
