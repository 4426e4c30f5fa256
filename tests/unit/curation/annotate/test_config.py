"""Settings of the annotate stage: refused early, hashed by what decides the regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotations_schema.errors import UsageError, WeightsError
from curation.annotate.config import AnnotateConfig, result_sha256
from curation.annotate.protocols import Provider


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_detector": "east"}, "unknown text detector 'east'"),
        ({"face_detector": "yolo"}, "unknown face detector 'yolo'"),
        ({"text_score_min": 1.5}, "text_score_min is 1.5; it must lie between 0 and 1"),
        ({"face_score_min": -0.1}, "face_score_min is -0.1"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"text_side_min_px": -1.0}, "text_side_min_px is -1.0; give pixels, 0 keeps all"),
        ({"face_side_min_px": float("inf")}, "face_side_min_px is inf; give pixels"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"max_side_px": 0}, "max_side_px is 0"),
        ({"text_input_sides_px": (16,)}, "text_input_sides_px is .16.; give sizes of at least 32"),
        ({"face_input_sides_px": ()}, "face_input_sides_px is"),
        ({"text_detector": "none", "text_weights": "x.onnx"}, "text_weights is given, but"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        AnnotateConfig(**settings)
    assert "\n" not in str(caught.value)


def test_options_reach_the_detector_they_are_meant_for() -> None:
    config = AnnotateConfig(
        text_weights="text.onnx",
        face_score_min=0.5,
        face_side_min_px=20.0,
        face_input_sides_px=(640,),
        threads=3,
        provider=Provider.CUDA,
    )
    assert config.text_options.weights == Path("text.onnx")
    assert config.text_options.score_min is None
    assert config.face_options.weights is None
    assert config.face_options.score_min == 0.5
    assert (config.text_options.side_min_px, config.face_options.side_min_px) == (0.0, 20.0)
    assert config.face_options.input_sides_px == (640,)
    # Three images side by side, each network on one thread.
    assert config.text_options.threads == config.face_options.threads == 1
    assert config.text_options.provider is Provider.CUDA


def test_limits_reach_the_decoder() -> None:
    limits = AnnotateConfig(max_pixels=10, max_side_px=5).limits
    assert (limits.max_pixels, limits.max_side) == (10, 5)


def test_threads_do_not_change_the_hash_and_everything_else_does() -> None:
    base = result_sha256(AnnotateConfig())
    assert result_sha256(AnnotateConfig(threads=4, batch_size=8)) == base
    others = [
        AnnotateConfig(text_detector="none"),
        AnnotateConfig(face_score_min=0.5),
        AnnotateConfig(text_side_min_px=8.0),
        AnnotateConfig(face_input_sides_px=(640,)),
        AnnotateConfig(max_side_px=1000),
        AnnotateConfig(provider=Provider.CUDA),
    ]
    assert len({base, *map(result_sha256, others)}) == len(others) + 1


def test_a_weights_file_is_hashed_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    config = AnnotateConfig(face_detector="insightface_onnx", face_weights=str(first))
    moved = replace(config, face_weights=str(second))
    assert result_sha256(config) == result_sha256(moved)
    second.write_bytes(b"two")
    assert result_sha256(config) != result_sha256(moved)


def test_an_absent_weights_file_is_told_before_anything_runs(tmp_path: Path) -> None:
    config = AnnotateConfig(
        face_detector="insightface_buffalo_l", face_weights=str(tmp_path / "absent.onnx")
    )
    with pytest.raises(WeightsError, match="no weights at"):
        result_sha256(config)
