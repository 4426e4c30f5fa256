"""docTR's own code path with random weights, saved as a state dict and loaded by path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doctr.models import detection
from doctr.models.detection.differentiable_binarization import pytorch as dbnet
from doctr.models.detection.fast import pytorch as fast
from doctr.models.detection.fast import reparameterize
from doctr.models.detection.linknet import pytorch as linknet
from doctr.models.detection.zoo import ARCHS

from annotations_schema.errors import UsageError, WeightsError
from curation.annotate.cards import DOCTR_CARDS
from curation.annotate.detectors import load_text_detector
from curation.annotate.protocols import DetectorOptions, TextDetector
from curation.annotate.text_doctr import quads_in_edges

Photo = Callable[[str], np.ndarray]
LAST_LAYERS = {
    "db_mobilenet_v3_large": ("prob_head.6.weight", 100.0),
    "linknet_resnet18": ("classifier.6.weight", 10.0),
    "fast_tiny": ("prob_head.2.weight", -8e-6),
}
"""Architectures with their last weights and a gain that makes blobs of the random map."""
SIDE_PX = 256


def random_model(architecture: str) -> Any:
    """A network of random weights whose map has blobs rather than one even grey."""
    torch.manual_seed(3)
    model = detection.__dict__[architecture](
        pretrained=False, pretrained_backbone=False, assume_straight_pages=False
    )
    layer, gain = LAST_LAYERS[architecture]
    with torch.no_grad():
        weight = model.get_parameter(layer)
        weight.sub_(weight.mean()).mul_(gain)
    return model


@pytest.fixture(scope="module")
def state_dicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("doctr")
    paths = {name: folder / f"{name}.pt" for name in LAST_LAYERS}
    for name, path in paths.items():
        torch.save(random_model(name).state_dict(), path)
    return paths


def load(architecture: str, weights: Path | None, **settings: Any) -> TextDetector:
    options = DetectorOptions(weights=weights, **{"input_sides_px": (SIDE_PX,), **settings})
    detector = load_text_detector(f"doctr_{architecture}", options)
    assert detector is not None
    return detector


@pytest.mark.parametrize("architecture", LAST_LAYERS)
def test_regions_equal_doctr_s_own_predictor(
    architecture: str, state_dicts: dict[str, Path], photo: Photo
) -> None:
    """Wider and higher than long: docTR pads either side, and its quads are map pixel centres."""
    model = random_model(architecture)
    model.cfg = {**model.cfg, "input_shape": (3, SIDE_PX, SIDE_PX)}
    if isinstance(model, detection.FAST):
        model = reparameterize(model)
    predictor = detection.detection_predictor(model, assume_straight_pages=False)
    adapter = load(architecture, state_dicts[architecture])
    for name in ("hopper", "coffee"):
        image = photo(name)
        height, width = image.shape[:2]
        (theirs,) = predictor([image])
        corners = theirs["words"][:, :4] * [width, height] + 0.5 * max(image.shape) / SIDE_PX
        corners = np.clip(corners, 0, [width, height])
        spans = np.ptp(corners, axis=1).min(axis=1) > 0
        ((text, dropped),) = adapter.find([image])
        assert len(text) == spans.sum() > 1
        assert len(dropped) == (~spans).sum()
        assert rows(text.quad, text.score) == rows(corners[spans], theirs["words"][spans, 4, 1])


def test_a_batch_gives_what_its_images_give_alone(
    state_dicts: dict[str, Path], photo: Photo
) -> None:
    """Within the rounding of torch's convolutions, which may go other ways for a batch."""
    adapter = load("db_mobilenet_v3_large", state_dicts["db_mobilenet_v3_large"])
    images = [photo(name) for name in ("hopper", "coffee", "astronaut")]
    for image, (text, _) in zip(images, adapter.find(images), strict=True):
        alone = adapter.detect(image)
        assert len(text) == len(alone) > 0
        np.testing.assert_allclose(np.sort(text.score), np.sort(alone.score), atol=1e-4)


def rows(quads: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    table = np.column_stack([scores, np.asarray(quads).reshape(-1, 8)]).astype(np.float64)
    return sorted(np.round(table, 2).tolist())


def test_a_blob_of_the_map_comes_back_centred() -> None:
    """A blob over columns 200 to 399 and rows 100 to 119 has its centre at (300, 110) in edges."""
    model = detection.db_mobilenet_v3_large(
        pretrained=False, pretrained_backbone=False, assume_straight_pages=False
    )
    probability = np.full((1, 512, 512, 1), 0.01, np.float32)
    probability[0, 100:120, 200:400, 0] = 0.95
    ((found,),) = model.postprocessor(probability)  # (1, 5, 2): four corners, (0, score)
    # A square image of four pixels for each map pixel has no padding to remove.
    quads = quads_in_edges(found[:, :4], width=2048, height=2048, side=512)
    np.testing.assert_allclose(quads[0].mean(axis=0), [4 * 300, 4 * 110], atol=0.5)


def test_every_architecture_of_doctr_has_a_card_with_its_file() -> None:
    published = {**dbnet.default_cfgs, **linknet.default_cfgs, **fast.default_cfgs}
    assert set(DOCTR_CARDS) == {f"doctr_{name}" for name in ARCHS}
    for name in ARCHS:
        assert f"/{DOCTR_CARDS[f'doctr_{name}'].file}&" in published[name]["url"]


def test_the_record_is_what_the_footer_needs(state_dicts: dict[str, Path]) -> None:
    path = state_dicts["db_mobilenet_v3_large"]
    record = load("db_mobilenet_v3_large", path, score_min=0.25).record
    assert record.name == "doctr_db_mobilenet_v3_large"
    assert record.weights_sha256 == sha256(path.read_bytes()).hexdigest()
    assert record.thresholds == {
        "score_min": 0.25,
        "candidate_score_min": 0.1,
        "side_min_px": 0.0,
        "map_min": 0.3,
        "unclip_ratio": 1.5,
    }
    assert record.input_size.startswith("256 x 256")
    assert " (torch " in record.library_version


def test_the_input_side_is_doctr_s_own_unless_given(state_dicts: dict[str, Path]) -> None:
    path = state_dicts["db_mobilenet_v3_large"]
    adapter = load("db_mobilenet_v3_large", path, input_sides_px=None)
    assert adapter.record.input_size.startswith("1024 x 1024")


def test_score_min_leaves_out_what_scores_less(state_dicts: dict[str, Path], photo: Photo) -> None:
    path = state_dicts["db_mobilenet_v3_large"]
    image = photo("coffee")
    everything = load("db_mobilenet_v3_large", path).detect(image)
    threshold = float(np.median(everything.score))
    kept = load("db_mobilenet_v3_large", path, score_min=threshold).detect(image)
    assert 0 < len(kept) < len(everything)
    assert (kept.score >= threshold).all()


def test_threads_are_pinned(state_dicts: dict[str, Path]) -> None:
    before = torch.get_num_threads()
    try:
        load("db_mobilenet_v3_large", state_dicts["db_mobilenet_v3_large"], threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sides", [(1000,), (512, 1024)], ids=str)
def test_the_side_is_one_multiple_of_the_stride(
    sides: tuple[int, ...], state_dicts: dict[str, Path]
) -> None:
    with pytest.raises(UsageError, match="one input side, a multiple of 32"):
        load("db_mobilenet_v3_large", state_dicts["db_mobilenet_v3_large"], input_sides_px=sides)


def test_weights_of_another_architecture_are_refused(state_dicts: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="not a state dict of this architecture") as caught:
        load("db_mobilenet_v3_large", state_dicts["linknet_resnet18"])
    assert "\n" not in str(caught.value)


def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"not a state dict")
    with pytest.raises(WeightsError, match="not a state dict"):
        load("db_mobilenet_v3_large", path)
    with pytest.raises(WeightsError, match="no weights at"):
        load("db_mobilenet_v3_large", tmp_path / "absent.pt")


def test_weights_that_cannot_be_downloaded_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCTR_CACHE_DIR", str(tmp_path))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # refused at once
    with contextlib.suppress(KeyError):
        monkeypatch.delenv("no_proxy")
    with pytest.raises(WeightsError, match="docTR could not download db_mobilenet") as caught:
        load("db_mobilenet_v3_large", None)
    assert "\n" not in str(caught.value)
    output = capsys.readouterr()
    assert output.out == ""
    assert "docTR downloads db_mobilenet_v3_large-21748dd0.pt" in output.err
