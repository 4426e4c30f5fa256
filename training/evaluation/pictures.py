"""Whole pictures judged by networks: a perceptual distance, and features for a Frechet distance.

Compared is what a tokenizer saw with what it made of it, at the size it worked at and without the
padding, as LPIPS and rFID of tokenizers are published (both at 256 px). The rows `original` and
`resize only` are that picture itself, so their distances are 0 by definition.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.evaluation.frechet import FrechetNet, frechet_distance, pooled
from training.evaluation.perceptual import PerceptualNet

Image = NDArray[np.uint8]
Float32 = NDArray[np.float32]

MIN_SIDE_PX = 16
"""VGG16 halves a picture four times before its last maps; thinner pictures are not compared."""

NUM_REFERENCES = 2
"""The rows `original` and `resize only`, which show the reference itself."""

SETTINGS = {
    "perceptual": "per image, at the size the tokenizer works at, without padding",
    "frechet": (
        "torch-fidelity's statistics and distance, on pictures at the size the tokenizer works at, "
        "without padding; the reference set is the same pictures before reconstruction"
    ),
}
"""What was computed, for the result file."""


@dataclass(kw_only=True, slots=True)
class PictureScorer:
    """Collects distances and features of pictures; either network may be None."""

    perceptual: PerceptualNet | None
    frechet: FrechetNet | None
    images: list[int] = field(default_factory=list)
    """Index of each image that was compared."""
    num_too_thin: int = 0
    """Images with a side below `MIN_SIDE_PX` at the size the tokenizer works at."""
    distances: list[tuple[float, ...]] = field(default_factory=list)
    """Per compared image, one per system; only the references' without a perceptual net."""
    perceptual_s: float = 0.0
    frechet_s: float = 0.0
    _features: list[Float32] = field(default_factory=list)

    @property
    def network_s(self) -> float:
        """Seconds inside the networks."""
        return self.perceptual_s + self.frechet_s

    def add(self, image: int, pictures: Sequence[Image]) -> None:
        """Compare pictures of one image, (h, w, 3) uint8 of one shape, with the first of them."""
        if min(pictures[0].shape[:2]) < MIN_SIDE_PX:
            self.num_too_thin += 1
            return
        self.images.append(image)
        with torch.inference_mode():
            self._compare([torch.from_numpy(np.array(picture)[None]) for picture in pictures])

    def frechet_distances(self) -> list[float | None]:
        """The Frechet distance of every system, None of a single image; empty without any."""
        if not self._features:
            return []
        reference, *others = np.stack(self._features, axis=1)
        sets = [reference] * NUM_REFERENCES + others
        return [frechet_distance(reference, features) for features in sets]

    def _compare(self, pictures: Sequence[Tensor]) -> None:
        distances, features = [0.0] * NUM_REFERENCES, []
        targets: list[Tensor] | None = None
        for picture in pictures:
            maps: tuple[Tensor, ...] = ()
            start = time.perf_counter()
            if self.perceptual is not None:
                maps = self.perceptual.maps(picture)
                if targets is None:
                    targets = self.perceptual.distance.targets(maps)
                else:
                    distances.append(float(self.perceptual.distance.between(targets, maps)))
            between = time.perf_counter()
            if self.frechet is not None:
                features.append(self._vector(self.frechet, picture, maps))
            self.perceptual_s += between - start
            self.frechet_s += time.perf_counter() - between
        self.distances.append(tuple(distances))
        if features:
            self._features.append(np.concatenate(features))

    def _vector(
        self, frechet: FrechetNet, picture: Tensor, maps: tuple[Tensor, ...]
    ) -> NDArray[np.float32]:
        vector = pooled(maps[-1]) if maps and self._is_shared else frechet.features(picture)
        found: NDArray[np.float32] = vector.cpu().numpy()
        return found

    @property
    def _is_shared(self) -> bool:
        """Whether the distance's last maps are the very features: VGG16 then runs once."""
        names = {net.record.weights_sha256 for net in (self.perceptual, self.frechet) if net}
        return len(names) == 1 and self.frechet is not None and self.frechet.is_last_maps
