"""RetinaFace MobileNet-0.25 on real photographs, beside the package whose weights it runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import retinaface
import retinaface.weights
from insightface.utils.face_align import norm_crop
from numpy.typing import NDArray

from annotations_schema.errors import WeightsError
from annotations_schema.regions import FaceRegions
from curation.annotate.detectors import load_face_detector
from curation.annotate.face_retinaface import (
    decode,
    intersection_over_union,
    pass_sizes,
    priors,
    suppress,
)
from curation.annotate.protocols import DetectorOptions, FaceDetector

Photo = Callable[[str], NDArray[np.uint8]]


def enlarged(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def load(**settings: Any) -> FaceDetector:
    detector = load_face_detector("retinaface_mnet025", DetectorOptions(**settings))
    assert detector is not None
    return detector


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return load()


@pytest.fixture(scope="module")
def six(detector: FaceDetector, photo: Photo) -> FaceRegions:
    return detector.detect(photo("six_faces"))


def test_six_faces_have_six_valid_transforms(six: FaceRegions) -> None:
    assert len(six) == 6
    assert six.is_valid.all()
    assert (six.residual_px < 10).all()
    assert (np.diff(six.score) <= 0).all()


def test_landmarks_stand_in_the_template_s_order(six: FaceRegions) -> None:
    left_eye, right_eye, nose, left_mouth, right_mouth = six.landmarks_5.transpose(1, 0, 2)
    assert (left_eye[:, 0] < right_eye[:, 0]).all()
    assert (left_mouth[:, 0] < right_mouth[:, 0]).all()
    assert (left_eye[:, 1] < nose[:, 1]).all()
    assert (nose[:, 1] < right_mouth[:, 1]).all()


@pytest.mark.parametrize("name", ["six_faces", "astronaut", "hopper", "coffee"])
def test_one_pass_equals_the_package_s_own_output(photo: Photo, name: str) -> None:
    """The package truncates to whole pixels; ours, truncated, may differ by rounding alone."""
    image = photo(name)
    theirs = sorted(retinaface.detect_faces(image), key=lambda face: face.x)
    faces = load(input_sides_px=(1920,)).detect(image)
    assert len(faces) == len(theirs)
    for face, index in zip(theirs, np.argsort(faces.box_xyxy[:, 0]), strict=True):
        x0, y0, x1, y1 = faces.box_xyxy[index]
        whole = np.array([face.x, face.y, face.width, face.height])
        assert within_a_pixel(np.array([x0, y0, x1 - x0, y1 - y0]), whole)
        points = np.array([(point.x, point.y) for point in face.landmarks])
        assert within_a_pixel(faces.landmarks_5[index] + 0.5, points)  # edges, as the package
        assert faces.score[index] == pytest.approx(face.score, abs=1e-5)


def within_a_pixel(exact: np.ndarray, truncated: np.ndarray) -> bool:
    difference = exact - truncated
    return bool((difference > -1e-3).all() and (difference < 1 + 1e-3).all())


def test_landmarks_keep_their_fractions(six: FaceRegions) -> None:
    assert len(np.unique(np.round(six.landmarks_5 % 1, 2))) > 20


def test_crop_from_image_is_insightface_s_norm_crop(detector: FaceDetector, photo: Photo) -> None:
    image = photo("astronaut")
    faces = detector.detect(image)
    assert len(faces) == 1
    ours = cv2.warpAffine(image, faces.crop_from_image[0], (112, 112))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # scikit-image renames `estimate`
        theirs = norm_crop(image, faces.landmarks_5[0])
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_the_network_s_frame_is_edges(detector: FaceDetector, photo: Photo) -> None:
    """In edges a mirrored image has its faces at width - x; in pixel centres at width - 1 - x."""
    image = photo("six_faces")
    width = image.shape[1]
    faces = detector.detect(image)
    mirrored = detector.detect(np.ascontiguousarray(image[:, ::-1]))
    order = np.argsort(faces.box_xyxy[:, 0])
    other = np.argsort(-mirrored.box_xyxy[:, 2])
    swapped = mirrored.landmarks_5[other][:, [1, 0, 2, 4, 3]]
    sums = faces.landmarks_5[order][..., 0] + swapped[..., 0]
    assert abs(float(np.mean(sums)) - (width - 1)) < 0.5


@pytest.mark.parametrize("name", ["coffee", "chelsea", "page"])
def test_a_photograph_without_a_face_gives_none(
    detector: FaceDetector, photo: Photo, name: str
) -> None:
    assert len(detector.detect(photo(name))) == 0


def test_noise_and_flat_images_give_none(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
    assert len(detector.detect(noise)) == 0
    assert len(detector.detect(np.full((256, 320, 3), 127, np.uint8))) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (31, 33)], ids=str)
def test_tiny_and_narrow_images_are_looked_at(
    detector: FaceDetector, size: tuple[int, int]
) -> None:
    assert len(detector.detect(np.zeros((*size, 3), np.uint8))) == 0


def test_small_faces_in_a_large_photograph_are_found(detector: FaceDetector, photo: Photo) -> None:
    sheet = np.tile(photo("six_faces"), (2, 3, 1))  # 3,840 px wide, faces of 100 px
    assert len(detector.detect(sheet)) == 36
    assert len(load(input_sides_px=(640,)).detect(sheet)) < 36


def test_a_close_up_is_one_face_and_not_its_parts(detector: FaceDetector, photo: Photo) -> None:
    portrait = photo("hopper")[70:370, 130:400]
    close_up = enlarged(portrait, 6)
    faces = detector.detect(close_up)
    assert len(faces) == 1
    assert faces.box_xyxy[0, 2] - faces.box_xyxy[0, 0] > 0.5 * close_up.shape[1]
    full_size_alone = load(input_sides_px=(1920,)).detect(close_up)
    assert full_size_alone.box_xyxy[0, 2] - full_size_alone.box_xyxy[0, 0] < 800


def test_a_resized_photograph_gives_the_same_face_in_its_own_pixels(
    detector: FaceDetector, photo: Photo
) -> None:
    image = photo("astronaut")
    large = enlarged(image, 4)
    small_face, large_face = detector.detect(image), detector.detect(large)
    moved = (large_face.landmarks_5[0] + 0.5) / 4 - 0.5
    eyes = np.linalg.norm(small_face.landmarks_5[0, 1] - small_face.landmarks_5[0, 0])
    assert np.abs(moved - small_face.landmarks_5[0]).max() < 0.05 * eyes


def test_score_min_is_the_threshold(photo: Photo) -> None:
    loose, strict = load(score_min=0.2), load(score_min=0.9995)
    image = photo("six_faces")
    assert len(loose.detect(image)) >= 6 > len(strict.detect(image))
    assert (strict.detect(image).score > 0.9995).all()


def test_the_record_is_what_the_footer_needs(detector: FaceDetector) -> None:
    record = detector.record
    assert record.weights_sha256 == sha256(retinaface.weights.WEIGHTS).hexdigest()
    assert record.weights_licence == "MIT"
    assert record.library_version.startswith("0.1.0")
    assert record.thresholds == {
        "score_min": 0.9,
        "candidate_score_min": 0.5,
        "side_min_px": 0.0,
        "iou_max": 0.4,
    }
    assert "640, 1920 px" in record.input_size


def test_weights_by_path_are_the_onnx_file_itself(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "retinaface.onnx"
    path.write_bytes(retinaface.weights.WEIGHTS)
    assert len(load(weights=path).detect(photo("astronaut"))) == 1


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "retinaface.onnx"
    path.write_bytes(retinaface.weights.WEIGHTS[:-1])
    with pytest.raises(WeightsError, match="sha256"):
        load(weights=path)


def test_passes_shrink_to_each_limit_and_never_enlarge() -> None:
    assert pass_sizes(4000, 3000, (640, 1920)) == [(640, 480), (1920, 1440)]
    assert pass_sizes(1000, 500, (640, 1920)) == [(640, 320), (1000, 500)]
    assert pass_sizes(300, 200, (640, 1920)) == [(300, 200)]
    assert pass_sizes(8000, 1, (640,)) == [(640, 1)]


def test_priors_are_two_squares_a_cell_at_three_strides() -> None:
    prior = priors(64, 32)
    assert prior.shape == (2 * (8 * 4 + 4 * 2 + 2 * 1), 3)
    np.testing.assert_array_equal(prior[:3], [[4, 4, 16], [4, 4, 32], [12, 4, 16]])
    np.testing.assert_array_equal(prior[-1], [48, 16, 512])
    assert len(priors(65, 33)) == 2 * (9 * 5 + 5 * 3 + 3 * 2)


def test_decode_by_hand() -> None:
    offsets = np.zeros((4 * 2 + 2 + 2, 4), np.float32)
    points = np.zeros((len(offsets), 10), np.float32)
    scores = np.zeros(len(offsets), np.float32)
    # Second cell of the first row at stride 8, larger prior: centre (12, 4), side 32.
    offsets[3] = (1, -1, np.log(2) / 0.2, 0)
    points[3, :2] = (0.5, 2)
    scores[3] = 0.8
    found = decode(offsets, scores, points, (16, 16), score_min=0.5)
    middle, half = np.array([12 + 3.2, 4 - 3.2]), np.array([32, 16])
    np.testing.assert_allclose(
        found.boxes, [np.concatenate([middle - half, middle + half])], rtol=1e-6
    )
    np.testing.assert_allclose(found.landmarks[0, 0], [12 + 1.6, 4 + 6.4])
    np.testing.assert_allclose(found.landmarks[0, 1], [12, 4])


def test_overlap_by_hand() -> None:
    box = np.array([0.0, 0, 10, 10])
    others = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [10, 0, 20, 10]])
    np.testing.assert_allclose(intersection_over_union(box, others), [1, 1 / 3, 0, 0])


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10], [2, 0, 12, 10]])
    scores = np.array([0.7, 0.9, 0.8, 0.6])
    assert suppress(boxes, scores, 0.4).tolist() == [1, 2]
    assert suppress(boxes[:0], scores[:0], 0.4).tolist() == []
