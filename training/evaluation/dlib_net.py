"""dlib's face ResNet on aligned crops; its detector and landmark models are not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotations_schema.errors import WeightsError
from training.evaluation.networks import DLIB_RESNET, NetworkRecord, network_record, weights_path

Image = NDArray[np.uint8]
Float64 = NDArray[np.float64]

CANVAS_PX = 150
TEMPLATE_150: Float64 = np.array(
    [[49.6, 44.9], [100.5, 45.0], [74.7, 77.1], [52.7, 101.5], [96.9, 101.7]]
)
"""Landmark positions on dlib's canvas, (5, 2), pixel centres: where the five detector landmarks of
our manifests fall, on average, in the crops that dlib cuts itself."""
TEMPLATE_150.setflags(write=False)

BATCH_SIZE = 32


def load_dlib_resnet(weights: Path | None = None) -> DlibNet:
    """dlib's `face_recognition_resnet_model_v1` from the installed package or a path.

    Raises:
        WeightsError: the file is absent or is not the recorded one, or dlib is not installed.
    """
    path = weights_path(DLIB_RESNET, weights)
    try:
        import dlib  # a native library that only this net needs
    except ModuleNotFoundError as error:
        raise WeightsError(f"{DLIB_RESNET.name} needs dlib; {DLIB_RESNET.hint}") from error
    record = network_record(
        DLIB_RESNET,
        weights,
        library="dlib",
        library_version=dlib.__version__,
        is_published_protocol=False,
        note=(
            "substitute for TokBench's antelopev2: this net separates people by Euclidean distance "
            "(0.6), and cosines of different people are about 0.9"
        ),
    )
    return DlibNet(dlib.face_recognition_model_v1(str(path)), record)


class DlibNet:
    """A `FaceNet` over `dlib.face_recognition_model_v1`: 128 numbers per face."""

    def __init__(self, model: Any, record: NetworkRecord) -> None:
        self._model = model
        self._record = record

    @property
    def record(self) -> NetworkRecord:
        """Which network this is."""
        return self._record

    @property
    def template(self) -> Float64:
        """Landmarks on the canvas, (5, 2)."""
        return TEMPLATE_150

    @property
    def canvas_px(self) -> int:
        """Side of the canvas."""
        return CANVAS_PX

    def embed(self, canvases: Sequence[Image]) -> Float64:
        """Embeddings (N, 128) float64 of N (150, 150, 3) uint8 RGB."""
        rows: list[Any] = []
        for start in range(0, len(canvases), BATCH_SIZE):
            batch = [np.ascontiguousarray(canvas) for canvas in canvases[start:][:BATCH_SIZE]]
            rows.extend(self._model.compute_face_descriptor(batch, 0))
        return np.array(rows, dtype=np.float64).reshape(-1, 128)
