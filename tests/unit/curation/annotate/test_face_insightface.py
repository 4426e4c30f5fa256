"""insightface's own class around a network whose answer is known."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from insightface.model_zoo import SCRFD
from insightface.utils.face_align import norm_crop
from onnx import TensorProto, helper

from annotations_schema.errors import UsageError, WeightsError
from curation.annotate.detectors import load_face_detector
from curation.annotate.protocols import DetectorOptions, FaceDetector

CELL_PX = 8
BOX = np.array([-4.0, -5.0, 5.0, 7.0]) * CELL_PX
LANDMARKS = np.array([(-2, -1.5), (2.5, -1.5), (0.25, 1), (-1.5, 3.5), (2, 3.5)]) * CELL_PX


def with_red_cells(width: int, height: int, cells: list[tuple[int, int]], px: int) -> np.ndarray:
    """Grey image with pure red squares of `px` pixels at multiples of `px`."""
    image = np.full((height, width, 3), 90, np.uint8)
    for column, row in cells:
        image[row * px : (row + 1) * px, column * px : (column + 1) * px] = (255, 0, 0)
    return image


@pytest.fixture(scope="module")
def options(red_cell_detector: Path) -> DetectorOptions:
    return DetectorOptions(weights=red_cell_detector)


@pytest.fixture(scope="module")
def detector(options: DetectorOptions) -> FaceDetector:
    loaded = load_face_detector("insightface_onnx", options)
    assert loaded is not None
    return loaded


def test_known_faces_come_back_where_they_were_put(detector: FaceDetector) -> None:
    cells = [(20, 15), (60, 30)]
    faces = detector.detect(with_red_cells(640, 480, cells, px=CELL_PX))
    corners = np.array(cells)[np.argsort([c[0] for c in cells])] * CELL_PX
    order = np.argsort(faces.box_xyxy[:, 0])
    np.testing.assert_allclose(faces.box_xyxy[order], np.tile(corners, 2) + BOX, atol=1e-3)
    expected = corners[:, None] + LANDMARKS
    np.testing.assert_allclose(faces.landmarks_5[order], expected, atol=1e-3)
    assert faces.is_valid.all()


def test_a_large_image_is_mapped_back_to_its_own_pixels(detector: FaceDetector) -> None:
    faces = detector.detect(with_red_cells(1280, 960, [(20, 15)], px=2 * CELL_PX))
    corner = np.array([20, 15]) * 2 * CELL_PX
    np.testing.assert_allclose(faces.box_xyxy[0], np.tile(corner, 2) + 2 * BOX, atol=1e-3)
    np.testing.assert_allclose(faces.landmarks_5[0], corner + 2 * LANDMARKS, atol=1e-3)


def test_regions_equal_the_library_s_own_output(
    detector: FaceDetector, red_cell_detector: Path
) -> None:
    image = with_red_cells(640, 480, [(20, 15), (40, 40), (61, 33)], px=CELL_PX)
    faces = detector.detect(image)
    boxes, landmarks = SCRFD(str(red_cell_detector)).detect(image[:, :, ::-1])
    order = np.lexsort([boxes[:, 1], boxes[:, 0]])
    ours = np.lexsort([faces.box_xyxy[:, 1], faces.box_xyxy[:, 0]])
    assert len(faces) == len(boxes) == 3
    np.testing.assert_allclose(faces.box_xyxy[ours], boxes[order, :4], atol=1e-4)
    np.testing.assert_allclose(faces.landmarks_5[ours], landmarks[order], atol=1e-4)
    np.testing.assert_allclose(faces.score[ours], boxes[order, 4], atol=1e-6)


def test_the_channel_order_is_rgb(detector: FaceDetector) -> None:
    blue = with_red_cells(640, 480, [(20, 15)], px=CELL_PX)[:, :, ::-1]
    assert len(detector.detect(np.ascontiguousarray(blue))) == 0


def test_an_image_without_a_face_gives_no_region(
    detector: FaceDetector, photo: Callable[[str], np.ndarray]
) -> None:
    assert len(detector.detect(photo("coffee"))) == 0


def test_a_box_is_cut_to_the_image_and_its_landmarks_are_kept(detector: FaceDetector) -> None:
    faces = detector.detect(with_red_cells(640, 480, [(1, 15)], px=CELL_PX))
    assert faces.box_xyxy[0, 0] == 0.0
    assert faces.landmarks_5[0, 0, 0] == pytest.approx(CELL_PX + LANDMARKS[0, 0], abs=1e-3)


def test_crop_from_image_is_insightface_s_norm_crop(detector: FaceDetector) -> None:
    image = with_red_cells(640, 480, [(20, 15)], px=CELL_PX)
    faces = detector.detect(image)
    ours = cv2.warpAffine(image, faces.crop_from_image[0], (112, 112))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scikit-image renames `estimate`
        theirs = norm_crop(image, faces.landmarks_5[0])
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert ours.std() > 1


def test_score_min_is_the_threshold(options: DetectorOptions) -> None:
    image = with_red_cells(640, 480, [(20, 15)], px=CELL_PX)
    strict = load_face_detector("insightface_onnx", replace(options, score_min=0.999))
    assert strict is not None
    assert len(strict.detect(image)) == 0


def test_a_strip_that_the_library_cannot_resize_raises_one_of_its_errors(
    detector: FaceDetector,
) -> None:
    with pytest.raises(detector.errors):
        detector.detect(np.zeros((2, 8000, 3), np.uint8))


def test_the_record_names_file_thresholds_and_licence(
    detector: FaceDetector, red_cell_detector: Path
) -> None:
    record = detector.record
    assert record.weights_sha256 == sha256(red_cell_detector.read_bytes()).hexdigest()
    assert record.library == "insightface"
    assert record.thresholds == {
        "score_min": 0.5,
        "candidate_score_min": 0.3,
        "side_min_px": 0.0,
        "iou_max": 0.4,
    }
    assert "128 x 128 and 640 x 640" in record.input_size
    assert "not stated" in record.weights_licence


def test_a_pack_is_found_in_its_folder_or_one_below(
    red_cell_detector: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "antelopev2" / "antelopev2"
    folder.mkdir(parents=True)
    shutil.copy(red_cell_detector, folder / "scrfd_10g_bnkps.onnx")
    options = DetectorOptions(weights=tmp_path / "antelopev2")
    detector = load_face_detector("insightface_antelopev2", options)
    assert detector is not None
    assert "non-commercial" in detector.record.weights_licence
    assert len(detector.detect(with_red_cells(640, 480, [(20, 15)], px=CELL_PX))) == 1


def test_input_sides_are_the_squares(options: DetectorOptions) -> None:
    # At 320 px the cell is a quarter as large: too small for the network's only stride.
    image = with_red_cells(640, 480, [(20, 15)], px=CELL_PX)
    coarse = load_face_detector("insightface_onnx", replace(options, input_sides_px=(320,)))
    assert coarse is not None
    assert len(coarse.detect(image)) == 0
    assert coarse.record.input_size.endswith("320 x 320")


def test_input_sides_must_be_multiples_of_the_stride(options: DetectorOptions) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        load_face_detector("insightface_onnx", replace(options, input_sides_px=(650,)))


def test_an_onnx_file_without_landmarks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recogniser.onnx"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["output"])],
        "not_a_detector",
        [value("input", TensorProto.FLOAT, [1, 3, 112, 112])],
        [value("output", TensorProto.FLOAT, [1, 3, 112, 112])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    with pytest.raises(WeightsError, match=r"not an \.onnx face detector with landmarks"):
        load_face_detector("insightface_onnx", DetectorOptions(weights=path))


def test_a_file_that_is_no_onnx_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(WeightsError, match="is no ONNX model") as caught:
        load_face_detector("insightface_onnx", DetectorOptions(weights=path))
    assert "\n" not in str(caught.value)


def test_without_a_path_the_generic_detector_asks_for_one() -> None:
    with pytest.raises(WeightsError, match="give the file's path"):
        load_face_detector("insightface_onnx", DetectorOptions())


def test_a_pack_that_cannot_be_downloaded_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: refused at once
    with contextlib.suppress(KeyError):
        monkeypatch.delenv("no_proxy")
    with pytest.raises(WeightsError, match="could not download buffalo_l") as caught:
        load_face_detector("insightface_buffalo_l", DetectorOptions())
    assert "\n" not in str(caught.value)
    output = capsys.readouterr()
    assert output.out == ""
    assert "downloads the pack buffalo_l" in output.err
