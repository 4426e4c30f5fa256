"""PP-OCRv6 small on real photographs, beside rapidocr's own pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rapidocr import RapidOCR

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.regions import TextRegions
from curation.annotate.detectors import load_text_detector
from curation.annotate.protocols import DetectorOptions, TextDetector
from curation.annotate.text_rapidocr import (
    RapidOcrDetector,
    network_scale,
    pad_narrow,
)

Photo = Callable[[str], NDArray[np.uint8]]


def load(**settings: Any) -> TextDetector:
    detector = load_text_detector("ppocr_v6_small", DetectorOptions(**settings))
    assert detector is not None
    return detector


@pytest.fixture(scope="module")
def detector() -> TextDetector:
    return load()


@pytest.fixture(scope="module")
def hopper_text(detector: TextDetector, photo: Photo) -> TextRegions:
    return detector.detect(photo("hopper"))


def sign(words: str, angle: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A white board of 900 x 800 px with words, turned, and the four corners of their ink."""
    image = np.full((800, 900, 3), 255, np.uint8)
    cv2.putText(image, words, (250, 420), cv2.FONT_HERSHEY_DUPLEX, 2.5, (20, 20, 20), 5)
    rows, columns = np.nonzero(image[:, :, 0] < 128)
    x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)
    turn = cv2.getRotationMatrix2D((450, 400), angle, 1.0)
    turned = cv2.warpAffine(image, turn, (900, 800), borderValue=(255, 255, 255))
    return turned, (corners - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5


def covers_tightly(quad: np.ndarray, ink: np.ndarray) -> bool:
    """Whether a quad holds nearly all of the ink's rectangle, most of what it holds."""
    found, true = np.asarray(quad, np.float32), np.asarray(ink, np.float32)
    common, _ = cv2.intersectConvexConvex(found, true)
    covered, filled = common / cv2.contourArea(true), common / cv2.contourArea(found)
    return bool(covered > 0.97 and filled > 0.6)


def test_a_printed_page_gives_lines_of_text(detector: TextDetector, photo: Photo) -> None:
    text = detector.detect(photo("page"))
    assert len(text) >= 5
    wide = text.box_xyxy[:, 2] - text.box_xyxy[:, 0] > text.box_xyxy[:, 3] - text.box_xyxy[:, 1]
    assert wide.mean() > 0.5
    assert (np.diff(text.score) <= 0).all()


def test_words_on_a_photographed_wall_are_found(detector: TextDetector, photo: Photo) -> None:
    assert len(detector.detect(photo("text"))) >= 1


def test_flat_and_noise_images_give_none(detector: TextDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
    assert len(detector.detect(noise)) == 0
    assert len(detector.detect(np.full((256, 320, 3), 127, np.uint8))) == 0


def test_quads_and_scores_equal_rapidocr_s_own_pipeline(
    hopper_text: TextRegions, photo: Photo
) -> None:
    """The photo is smaller than rapidocr's limits, so both see it at the same size."""
    settings = {
        "Det.mean": [0.485, 0.456, 0.406],
        "Det.std": [0.229, 0.224, 0.225],
        "Det.unclip_ratio": 1.2,
        "Global.log_level": "critical",
    }
    engine = RapidOCR(params=settings)
    image = photo("hopper")
    theirs: Any = engine(image[:, :, ::-1], use_det=True, use_cls=False, use_rec=False)
    assert len(theirs.boxes) == len(hopper_text) >= 4
    assert as_set(hopper_text.quad) == as_set(theirs.boxes)
    np.testing.assert_allclose(np.sort(hopper_text.score), np.sort(theirs.scores), atol=1e-6)


def as_set(quads: np.ndarray) -> set[bytes]:
    return {np.asarray(quad, np.float32).tobytes() for quad in quads}


def test_a_score_belongs_to_its_own_quad(hopper_text: TextRegions, photo: Photo) -> None:
    """rapidocr's TextDetector sorts quads but not scores; a threshold shows whose they are."""
    threshold = float(np.median(hopper_text.score)) - 1e-6
    kept = load(score_min=threshold).detect(photo("hopper"))
    expected = hopper_text.take(hopper_text.score >= threshold)
    assert 0 < len(kept) < len(hopper_text)
    assert as_set(kept.quad) == as_set(expected.quad)


@pytest.mark.parametrize("angle", [0.0, 20.0, -35.0])
def test_a_quad_covers_the_ink_and_follows_its_angle(detector: TextDetector, angle: float) -> None:
    image, corners = sign("MARKET", angle)
    text = detector.detect(image)
    assert len(text) == 1
    assert covers_tightly(text.quad[0], corners)
    nearest = np.linalg.norm(text.quad[0][:, None] - corners, axis=-1).argmin(axis=1)
    assert nearest.tolist() == [0, 1, 2, 3]  # from the top left, clockwise


def test_a_large_image_is_mapped_back_to_its_own_pixels() -> None:
    image, corners = sign("MARKET")
    large = image.repeat(4, axis=0).repeat(4, axis=1)
    text = load(input_sides_px=(900,)).detect(large)
    assert len(text) == 1
    assert covers_tightly(text.quad[0], 4 * corners)


def test_the_map_s_blobs_come_back_centred_in_edges() -> None:
    adapter = RapidOcrDetector(DetectorOptions())
    probability = np.full((1, 1, 320, 640), 0.01, np.float32)
    probability[0, 0, 100:120, 200:400] = 0.95
    quads, _ = adapter._parts.postprocess_op(probability, (1280, 2560))
    np.testing.assert_allclose(quads[0].mean(axis=0), [4 * 300, 4 * 110], atol=0.5)


def test_the_channels_are_turned_to_bgr(detector: TextDetector, photo: Photo) -> None:
    image = photo("hopper")
    swapped = detector.detect(np.ascontiguousarray(image[:, :, ::-1]))
    assert as_set(swapped.quad) != as_set(detector.detect(image).quad)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (10, 2500), (20, 20)], ids=str)
def test_tiny_and_narrow_images_are_looked_at(
    detector: TextDetector, size: tuple[int, int]
) -> None:
    assert len(detector.detect(np.zeros((*size, 3), np.uint8))) == 0


def test_text_in_a_narrow_strip_is_cut_to_the_strip(detector: TextDetector) -> None:
    image, _ = sign("MARKET")
    rows = np.nonzero((image < 128).any(axis=(1, 2)))[0]
    strip = np.ascontiguousarray(np.tile(image[rows[0] - 2 : rows[-1] + 3], (1, 5, 1)))
    text = detector.detect(strip)
    assert len(text) >= 1
    assert text.box_xyxy[:, 3].max() <= len(strip)


def test_small_images_are_enlarged_and_large_ones_shrunk_with_the_longer_side_winning() -> None:
    assert network_scale(1024, 768, 2000) == 1.0
    assert network_scale(600, 368, 2000) == 2.0
    assert network_scale(100, 100, 2000) == 3.0
    assert network_scale(4000, 3000, 2000) == 0.5
    assert network_scale(2000, 100, 2000) == 1.0


def test_padding_leaves_the_image_at_the_origin() -> None:
    image = np.full((5, 100, 3), 7, np.uint8)
    padded = pad_narrow(image, 1.0)
    assert padded.shape == (32, 100, 3)
    np.testing.assert_array_equal(padded[:5], image)
    assert pad_narrow(padded, 1.0) is padded


def test_nothing_is_printed_to_stdout(
    photo: Photo, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    load().detect(photo("coffee"))
    assert capfd.readouterr().out == ""
    assert logging.getLogger("RapidOCR").level >= logging.WARNING


def test_the_record_is_what_the_footer_needs(detector: TextDetector) -> None:
    record = detector.record
    assert record.weights_sha256 == (
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
    )
    assert (record.library, record.weights_licence) == ("rapidocr", "Apache-2.0")
    assert record.library_version.startswith("3.10.0 (onnxruntime ")
    assert record.thresholds == {
        "score_min": 0.5,
        "candidate_score_min": 0.3,
        "side_min_px": 0.0,
        "map_min": 0.3,
        "unclip_ratio": 1.2,
    }
    assert "longer side at most 2000 px" in record.input_size


def test_input_side_is_the_longer_side(photo: Photo) -> None:
    small = load(input_sides_px=(160,))
    assert "longer side at most 160 px" in small.record.input_size
    assert len(small.detect(photo("page"))) < 5


def test_several_passes_are_refused() -> None:
    with pytest.raises(UsageError, match="makes one pass"):
        load(input_sides_px=(640, 1280))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    spec = find_spec("rapidocr")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    recogniser = Path(spec.submodule_search_locations[0]) / "models/PP-OCRv6_rec_small.onnx"
    with pytest.raises(WeightsError, match="sha256 6f327246"):
        load(weights=recogniser)
    with pytest.raises(WeightsError, match="no weights at"):
        load(weights=tmp_path / "absent.onnx")
