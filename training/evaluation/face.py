"""F-Sim: how alike a face net finds a face and its reconstruction.

Both are aligned by the original's five landmarks, so no detector takes part (TokBench,
eval_face.py). F-Sim is the cosine of the two embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from annotations_schema.errors import UsageError
from annotations_schema.geometry import SimilarityFit, fit_similarity
from training.evaluation.antelope_net import download_antelopev2, load_antelopev2
from training.evaluation.dlib_net import load_dlib_resnet
from training.evaluation.networks import NetworkRecord

Image = NDArray[np.uint8]
Float64 = NDArray[np.float64]


class FaceNet(Protocol):
    """Embeds aligned faces."""

    @property
    def record(self) -> NetworkRecord:
        """Which network this is."""
        ...

    @property
    def template(self) -> Float64:
        """Landmark positions on the canvas, (5, 2) float64, pixel centres."""
        ...

    @property
    def canvas_px(self) -> int:
        """Side of the square canvas."""
        ...

    def embed(self, canvases: Sequence[Image]) -> Float64:
        """Embeddings (N, D) float64, not normalised, of N (canvas_px, canvas_px, 3) uint8 RGB."""
        ...


FACE_NETS: Mapping[str, Callable[[Path | None], FaceNet]] = {
    "dlib_resnet_v1": load_dlib_resnet,
    "insightface_antelopev2": load_antelopev2,
}
"""Name -> loader(path of the weights, None for the installed ones)."""

DOWNLOADS: Mapping[str, Callable[[], Path]] = {"insightface_antelopev2": download_antelopev2}
"""Name -> the library's own download of the weights, for those that no package holds."""


class FaceScore(NamedTuple):
    """similarity: cosine in [-1, 1], F-Sim. distance: Euclidean, of the embeddings as they are."""

    similarity: float
    distance: float


def load_face_net(name: str, weights: Path | None = None, *, download: bool = False) -> FaceNet:
    """The face net of that name.

    Args:
        name: one of `FACE_NETS`.
        weights: the file, where it is not an installed package's.
        download: without a path, let the library fetch its weights.

    Raises:
        UsageError: no such name, or nothing to download for it.
        WeightsError: its weights are absent, are not the recorded file, or cannot be fetched.
    """
    if name not in FACE_NETS:
        known = ", ".join(FACE_NETS)
        raise UsageError(f"face net '{name}' does not exist; choose one of: {known}, none")
    if download and name not in DOWNLOADS:
        raise UsageError(
            f"face net {name} has nothing to download; leave out --face-download, or choose "
            f"{', '.join(DOWNLOADS)}"
        )
    if download and weights is None:
        weights = DOWNLOADS[name]()
    return FACE_NETS[name](weights)


def fit_face(landmarks_5: ArrayLike, net: FaceNet) -> SimilarityFit:
    """The similarity that takes image landmarks (5, 2), pixel centres, to the net's canvas."""
    return fit_similarity(landmarks_5, net.template)


def score_faces(original: Float64, reconstruction: Float64) -> list[FaceScore]:
    """Cosine and Euclidean distance of N pairs of embeddings, both (N, D)."""
    dot = (original * reconstruction).sum(axis=1)
    norms = np.linalg.norm(original, axis=1) * np.linalg.norm(reconstruction, axis=1)
    distance = np.linalg.norm(original - reconstruction, axis=1)
    return [FaceScore(float(c), float(d)) for c, d in zip(dot / norms, distance, strict=True)]


def face_ratio(box_xyxy: Sequence[float], image_size: tuple[int, int]) -> float:
    """max(box side) / max(image side), for faces whose annotation brings no ratio."""
    x0, y0, x1, y1 = box_xyxy
    return max(x1 - x0, y1 - y0) / max(image_size)
