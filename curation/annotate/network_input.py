"""Images as ONNX networks take them, and images of one size through a network together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def bgr_planes(image: NDArray[np.uint8], tables: Float32) -> Float32:
    """An image (H, W, 3) uint8 RGB as network input (1, 3, H, W) float32 BGR.

    Each channel has 256 possible values, so a normalisation is a table: looked up, it gives bit for
    bit what a library computes in float64 for every pixel, in a fifth of the time.

    Args:
        image: (H, W, 3) uint8 RGB.
        tables: (3, 256) float32, the network's value for each pixel value, in the order B, G, R.
    """
    height, width = image.shape[:2]
    planes = np.empty((1, 3, height, width), np.float32)
    for place, table in enumerate(tables):
        channel = cv2.extractChannel(image, 2 - place)
        planes[0, place] = cv2.LUT(channel, table[None])[..., :]
    return planes


def run_by_shape(
    run: Callable[[Float32], Sequence[NDArray[Any]]], inputs: Sequence[Float32]
) -> list[list[NDArray[Any]]]:
    """The network's outputs for each input (1, C, H, W); inputs of one shape run as one batch.

    Args:
        run: from a batch (N, C, H, W) to outputs whose first axis is the batch.
        inputs: any shapes.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, one in enumerate(inputs):
        by_shape.setdefault(one.shape, []).append(index)
    outputs: list[list[NDArray[Any]]] = [[] for _ in inputs]
    for indices in by_shape.values():
        batch = [inputs[index] for index in indices]
        results = run(batch[0] if len(batch) == 1 else np.concatenate(batch))
        for place, index in enumerate(indices):
            outputs[index] = [output[place : place + 1] for output in results]
    return outputs
