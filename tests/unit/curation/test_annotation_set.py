"""Annotation sets: other detectors over the same images, beside what stands."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, read_receipt
from annotations_schema.manifest import read_manifest, read_provenance
from annotations_schema.validation import validate
from curation.annotate.config import AnnotateConfig
from curation.annotation_set import begin_annotation_set, with_settings
from curation.cli import main
from curation.config import read_annotation_set

FACES = ["--annotation-set", "faces", "--face-detector", "retinaface_mnet025"]


def files(root: Path) -> dict[str, str]:
    """sha256 by path, of everything but lock and set."""
    return {
        path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def annotate(layout: DatasetLayout, *options: str) -> int:
    return main(["annotate", str(layout.root), *options])


def test_a_set_is_written_beside_what_stands_and_nothing_else_is_touched(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(curated.root)
    assert annotate(curated, *FACES) == 0
    after = files(curated.root)
    assert {name: after.get(name) for name in before} == before
    new = sorted(set(after) - set(before))
    assert new == [
        "annotation_sets/faces/000000.parquet",
        "annotation_sets/faces/000001.parquet",
        "annotation_sets/faces/config.json",
        "receipts/annotate.faces/000000.json",
        "receipts/annotate.faces/000001.json",
    ]
    faces = replace(curated, annotation_set="faces")
    manifest = read_manifest(faces.annotations("000000"))
    assert validate(manifest) == []
    assert manifest.column("num_faces").to_pylist()[:2] == [1, 0]
    assert set(manifest.column("text_state").to_pylist()) == {"not_run"}
    provenance = read_provenance(faces.annotations("000000"))
    assert provenance.face_detector is not None
    assert provenance.face_detector.name == "retinaface_mnet025"
    for command in ("status", "verify"):
        assert main([command, str(curated.root), "--annotation-set", "faces"]) == 0
    page = curated.root.parent / "faces.html"
    assert main(["report", str(curated.root), "--out", str(page), "--annotation-set", "faces"]) == 0
    assert "retinaface_mnet025" in page.read_text()


def test_the_same_command_again_has_nothing_to_do(curated: DatasetLayout) -> None:
    assert annotate(curated, *FACES) == 0
    before = files(curated.root)
    assert annotate(curated, *FACES) == 0
    assert annotate(curated, "--annotation-set", "faces") == 0
    assert files(curated.root) == before


def test_another_setting_on_the_same_set_is_refused_by_name(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert annotate(curated, *FACES) == 0
    before = files(curated.root)
    assert annotate(curated, *FACES, "--face-score-min", "0.5") == 2
    message = capsys.readouterr().err
    assert "annotation set 'faces'" in message
    assert "annotate.face_score_min was None and is now 0.5" in message
    assert "another --annotation-set" in message
    assert files(curated.root) == before


def test_machine_settings_of_a_set_may_differ_from_run_to_run(curated: DatasetLayout) -> None:
    assert annotate(curated, *FACES) == 0
    faces = replace(curated, annotation_set="faces")
    faces.receipt("annotate", "000001").unlink()
    assert annotate(curated, *FACES, "--threads", "2", "--batch-size", "4") == 0
    assert read_receipt(faces, "annotate", "000001") is not None


def test_the_default_set_s_settings_are_those_of_the_dataset(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert annotate(curated, "--text-detector", "none") == 2
    assert "text_detector of" in (message := capsys.readouterr().err)
    assert "add --annotation-set NAME" in message


def test_a_set_that_nobody_began_and_a_name_that_is_none_are_refused(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(curated.root), "--annotation-set", "cats"]) == 2
    assert "has no annotation set 'cats'; make it with" in capsys.readouterr().err
    assert annotate(curated, "--annotation-set", "../up") == 2
    assert "annotation set '../up' is no name" in capsys.readouterr().err


def test_a_detector_that_cannot_run_here_begins_no_set(curated: DatasetLayout) -> None:
    options = ["--text-detector", "doctr_db_resnet50", "--text-weights", "/nowhere/x.pt"]
    assert annotate(curated, "--annotation-set", "words", *options) == 2
    assert read_annotation_set(replace(curated, annotation_set="words")) is None


def test_a_damaged_configuration_of_a_set_is_one_clear_line(curated: DatasetLayout) -> None:
    assert annotate(curated, *FACES) == 0
    faces = replace(curated, annotation_set="faces")
    values = json.loads(faces.set_config.read_text())
    faces.set_config.write_text(json.dumps({**values, "colour": "red"}))
    with pytest.raises(UsageError, match="unknown setting 'colour'"):
        begin_annotation_set(faces, {})


def test_another_detector_begins_with_its_own_defaults() -> None:
    base = AnnotateConfig(face_score_min=0.95, face_side_min_px=20.0, text_score_min=0.7)
    chosen = {"face_detector": "insightface_onnx", "face_weights": "x.onnx"}
    made = with_settings(base, chosen)
    assert (made.face_score_min, made.face_weights, made.face_side_min_px) == (None, "x.onnx", 20.0)
    assert made.text_score_min == 0.7
    assert with_settings(base, {"face_detector": base.face_detector}) == base
