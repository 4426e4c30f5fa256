"""Network input looked up in tables, and images of one size as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from rapidocr.ch_ppocr_det.utils import DetPreProcess

from curation.annotate.detectors import load_face_detector, load_text_detector
from curation.annotate.network_input import bgr_planes, run_by_shape
from curation.annotate.protocols import DetectorOptions
from curation.annotate.text_rapidocr import RapidOcrDetector

RNG = np.random.default_rng(0)


def test_the_tables_give_rapidocr_s_own_input_bit_for_bit() -> None:
    image = RNG.integers(0, 256, (736, 960, 3), dtype=np.uint8)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    theirs = DetPreProcess(736, "min", mean, deviation)(image[:, :, ::-1])
    ours = RapidOcrDetector(DetectorOptions())._network_input(image)
    np.testing.assert_array_equal(ours, theirs)


def test_planes_stand_in_bgr_each_with_its_own_table() -> None:
    image = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    tables = np.arange(256, dtype=np.float32) + np.array([[0.0], [1000], [2000]], np.float32)
    planes = bgr_planes(image, tables)
    assert planes.tolist() == [[[[3, 6]], [[1002, 1005]], [[2001, 2004]]]]


def test_inputs_of_one_shape_run_together_and_outputs_return_to_their_place() -> None:
    batches: list[tuple[int, ...]] = []

    def run(batch: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        batches.append(batch.shape)
        return [batch.sum(axis=(1, 2, 3)), batch]

    shapes = [(1, 3, 4, 4), (1, 3, 2, 2), (1, 3, 4, 4), (1, 3, 4, 4)]
    inputs = [np.full(shape, n, np.float32) for n, shape in enumerate(shapes)]
    outputs = run_by_shape(run, inputs)
    assert sorted(batches) == [(1, 3, 2, 2), (3, 3, 4, 4)]
    assert [float(total[0]) for total, _ in outputs] == [0, 12, 96, 144]
    assert [echo.shape for _, echo in outputs] == shapes


@pytest.mark.parametrize("kind", ["text", "face"])
def test_an_image_s_result_does_not_depend_on_its_batch(
    kind: str, astronaut: NDArray[np.uint8], coffee: NDArray[np.uint8]
) -> None:
    """Exactly: on a CPU the networks compute each image of a batch by itself."""
    load = load_text_detector if kind == "text" else load_face_detector
    name = "ppocr_v6_small" if kind == "text" else "retinaface_mnet025"
    detector = load(name, DetectorOptions())
    assert detector is not None
    turned = np.ascontiguousarray(astronaut[:, ::-1])
    images = [astronaut, coffee, turned]
    together = detector.find(images)
    for image, (regions, dropped) in zip(images, together, strict=True):
        ((alone, dropped_alone),) = detector.find([image])
        np.testing.assert_array_equal(regions.box_xyxy, alone.box_xyxy)
        np.testing.assert_array_equal(regions.score, alone.score)
        assert dropped == dropped_alone
    assert sum(len(found.regions) for found in together) > 0
