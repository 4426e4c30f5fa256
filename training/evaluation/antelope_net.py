"""TokBench's face net on aligned crops: insightface's antelopev2 (ResNet100, Glint360K).

The ONNX file is run by the trainer's own executor, so that insightface is not needed to judge:
alignment is the format's `crop_from_image`, which equals insightface's `norm_crop`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from numpy.typing import NDArray
from torch import nn

from annotations_schema.errors import WeightsError
from annotations_schema.geometry import ARCFACE_TEMPLATE_112, CANVAS_PX
from annotations_schema.weights import read_weights
from training.evaluation.networks import (
    ANTELOPEV2,
    ANTELOPEV2_SHA256,
    NetworkRecord,
    library_download,
    network_record,
    published,
)
from training.models.frozen.onnx_net import OnnxNet

Image = NDArray[np.uint8]
Float64 = NDArray[np.float64]

BATCH_SIZE = 16


def load_antelopev2(weights: Path | None = None) -> ArcFaceNet:
    """antelopev2's `glintr100.onnx`, given by path.

    Any ArcFace ONNX file of insightface fits; it is named by its hash then.

    Raises:
        WeightsError: no path was given, or the file is no ONNX face recogniser.
    """
    data = read_weights(ANTELOPEV2, weights)
    record = network_record(
        ANTELOPEV2,
        weights,
        library="onnx",
        library_version=importlib.metadata.version("onnx"),
        is_published_protocol=True,
        note="" if weights is None else f"weights from {weights.name}",
    )
    return ArcFaceNet(data, published(record, ANTELOPEV2_SHA256))


def download_antelopev2() -> Path:
    """`glintr100.onnx` of insightface's model zoo, fetched by insightface where it is not there.

    Raises:
        WeightsError: it cannot be fetched, or the folder that is there does not hold it.
    """
    from insightface.utils import ensure_available  # imports OpenCV

    with library_download(ANTELOPEV2, "--face-weights"):
        folder = Path(ensure_available("models", "antelopev2"))
    # The zip has a folder of its own inside, so the file lies one level deeper than usual.
    found = sorted(folder.rglob(ANTELOPEV2.file))
    if not found:
        raise WeightsError(
            f"{ANTELOPEV2.name}: {folder} holds no {ANTELOPEV2.file}; remove the folder and try "
            "again, or give the file as --face-weights"
        )
    return found[0]


class ArcFaceNet:
    """A `FaceNet` over an ArcFace ONNX model with one embedding per face."""

    def __init__(self, model_bytes: bytes, record: NetworkRecord) -> None:
        self._net: nn.Module = OnnxNet(model_bytes, [_only_output(model_bytes)]).eval()
        self._record = record
        self._has_own_scaling = _scales_its_input(model_bytes)

    @property
    def record(self) -> NetworkRecord:
        """Which network this is."""
        return self._record

    @property
    def template(self) -> Float64:
        """Landmarks on the canvas, (5, 2)."""
        return ARCFACE_TEMPLATE_112

    @property
    def canvas_px(self) -> int:
        """Side of the canvas."""
        return CANVAS_PX

    def embed(self, canvases: Sequence[Image]) -> Float64:
        """Embeddings (N, D) float64 of N (112, 112, 3) uint8 RGB."""
        batches = [
            self._embed_batch(np.stack(canvases[start : start + BATCH_SIZE]))
            for start in range(0, len(canvases), BATCH_SIZE)
        ]
        return np.concatenate(batches)

    def _embed_batch(self, canvases: Image) -> Float64:
        x = torch.from_numpy(canvases).permute(0, 3, 1, 2).to(torch.float32)
        with torch.inference_mode():
            (embeddings,) = self._net(x if self._has_own_scaling else (x - 127.5) / 127.5)
        values: Float64 = embeddings.to(torch.float64).numpy()
        return values


def _only_output(model_bytes: bytes) -> str:
    outputs = _parse(model_bytes).graph.output
    if len(outputs) != 1:
        raise WeightsError(
            f"the ONNX file has {len(outputs)} outputs, a face recogniser has one; "
            f"{ANTELOPEV2.hint}"
        )
    return str(outputs[0].name)


def _scales_its_input(model_bytes: bytes) -> bool:
    """Whether the file subtracts and multiplies itself (insightface, model_zoo/arcface_onnx.py)."""
    names = [node.name for node in _parse(model_bytes).graph.node[:8]]
    return any(n.startswith(("Sub", "_minus")) for n in names) and any(
        n.startswith(("Mul", "_mul")) for n in names
    )


def _parse(model_bytes: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(model_bytes)
    except DecodeError as error:
        size = len(model_bytes)
        raise WeightsError(f"{size} bytes are not an ONNX model; {ANTELOPEV2.hint}") from error
