"""Real photographs from installed packages, and a face network whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "page": ("skimage", "data/page.png"),
    "text": ("skimage", "data/text.png"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "six_faces": ("insightface", "data/images/t1.jpg"),
}

CELL_PX = 8
"""The network below looks at cells of its first stride."""
BOX_CELLS = (-4.0, -5.0, 5.0, 7.0)
"""Box edges from the cell's corner, in cells."""
LANDMARK_CELLS = ((-2.0, -1.5), (2.5, -1.5), (0.25, 1.0), (-1.5, 3.5), (2.0, 3.5))
"""Landmarks from the cell's corner, in cells: eyes, nose, mouth corners, image-left first."""


@pytest.fixture(scope="session")
def photo_path() -> Callable[[str], Path]:
    """Path of a photograph, by name."""

    def path(name: str) -> Path:
        package, relative = PHOTOS[name]
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        return Path(spec.submodule_search_locations[0]) / relative

    return path


@pytest.fixture(scope="session")
def photo(photo_path: Callable[[str], Path]) -> Callable[[str], np.ndarray]:
    """A photograph by name, (H, W, 3) uint8 RGB."""

    def read(name: str) -> np.ndarray:
        with Image.open(photo_path(name)) as image:
            return np.array(image.convert("RGB"))

    return read


@pytest.fixture(scope="session")
def red_cell_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file in SCRFD's output layout that sees a face around every pure red 8 x 8 cell.

    Scores of stride 8 are the mean of (red - green - blue) over the cell, so the answer depends on
    where the image is red, on the order of its channels and on nothing else; strides 16 and 32 see
    nothing. Boxes and landmarks are constant distances from the cell's corner.
    """
    path = tmp_path_factory.mktemp("scrfd") / "red_cell.onnx"
    onnx.save(_scrfd_model(), path)
    return path


def _scrfd_model() -> onnx.ModelProto:
    # Normalised channels lie in [-1, 1]: red - green - blue - 2 is 1 for pure red, below 0 else.
    weight = np.array([1.0, -1.0, -1.0], np.float32).reshape(1, 3, 1, 1)
    constants = [numpy_helper.from_array(weight, "weight")]
    constants.append(numpy_helper.from_array(np.array([-2.0], np.float32), "bias"))
    nodes = [helper.make_node("Conv", ["input", "weight", "bias"], ["redness"])]
    nodes.append(helper.make_node("Relu", ["redness"], ["red"]))
    outputs: dict[str, list[onnx.ValueInfoProto]] = {"score": [], "box": [], "kps": []}
    left, top, right, bottom = BOX_CELLS
    distances = [-left, -top, right, bottom]
    points = [value for point in LANDMARK_CELLS for value in point]
    for stride in (8, 16, 32):
        gain = 1.0 if stride == CELL_PX else 0.0
        pool: dict[str, Any] = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", ["red"], [f"mean{stride}"], **pool))
        for kind, values in (("score", [gain]), ("box", distances), ("kps", points)):
            name = f"{kind}{stride}"
            nodes += _anchored(name, f"mean{stride}", values, constants, is_score=kind == "score")
            shape = [None, len(values)]
            outputs[kind].append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "red_cell",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [*outputs["score"], *outputs["box"], *outputs["kps"]],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def _anchored(
    name: str,
    mean: str,
    values: list[float],
    constants: list[onnx.TensorProto],
    *,
    is_score: bool,
) -> list[onnx.NodeProto]:
    """Nodes that lay values out as (cells * 2 anchors, len(values)); scores scale the mean."""
    width = len(values)
    # The second anchor of a cell never sees a face.
    factors = [*values, 0.0] if is_score else [*values, *values]
    weight = np.array(factors, np.float32).reshape(-1, 1, 1, 1)
    bias = np.zeros(2 * width, np.float32) if is_score else np.array(factors, np.float32)
    constants += [
        numpy_helper.from_array(weight if is_score else np.zeros_like(weight), f"{name}_weight"),
        numpy_helper.from_array(bias, f"{name}_bias"),
        numpy_helper.from_array(np.array([-1, width], np.int64), f"{name}_shape"),
    ]
    return [
        helper.make_node("Conv", [mean, f"{name}_weight", f"{name}_bias"], [f"{name}_map"]),
        helper.make_node("Transpose", [f"{name}_map"], [f"{name}_cells"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [f"{name}_cells", f"{name}_shape"], [name]),
    ]
