"""`insight-curate render-text` as a user types it: an ordinary dataset, for all that read such."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from annotations_schema import flatten_text, read_manifest, read_provenance
from annotations_schema.manifest import canonical_json_lines
from curation.cli import main
from training.data.manifest import ManifestDataset
from training.evaluation.annotations import from_manifests

WORDS = ("render-text", "--images", "7", "--shard-size", "3", "--size-px", "128")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "set"
    assert main([*WORDS, "--letter-px", "12", "24", "--out", str(out)]) == 0
    return out


def manifests(root: Path) -> list[Path]:
    return sorted((root / "annotations").glob("*.parquet"))


def test_it_verifies_clean_and_says_who_made_the_boxes(root: Path) -> None:
    assert main(["verify", str(root)]) == 0
    tables = [read_manifest(path) for path in manifests(root)]
    assert [table.num_rows for table in tables] == [3, 3, 1]
    assert read_provenance(manifests(root)[0]).text_detector.name == "rendered"
    assert read_provenance(manifests(root)[0]).face_detector is None


def test_the_transcriptions_stand_at_the_boxes(root: Path) -> None:
    for path in manifests(root):
        table = read_manifest(path)
        flat = flatten_text(table)
        for row, text in enumerate(table["input_words"].to_pylist()):
            boxes = flat.regions.box_xyxy[flat.offsets[row] : flat.offsets[row + 1]]
            words = json.loads(text)
            assert len(words) == len(boxes)
            for word, box in zip(words, boxes.tolist(), strict=True):
                assert box == pytest.approx(word["box_xyxy"], abs=1e-3)


def test_the_trainer_and_the_evaluator_read_it(root: Path) -> None:
    dataset, judged = ManifestDataset([root]), from_manifests([root])

    assert len(dataset) == 7
    assert dataset.counts.text_regions == sum(len(image.words) for image in judged.images) > 0
    assert judged.has_transcriptions
    assert dataset.read(0).image.shape == (128, 128, 3)


def test_the_same_command_gives_the_same_pictures_and_goes_on_after_a_kill(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    words = [*WORDS, "--letter-px", "12", "24", "--out", str(out)]
    assert main(words) == 0
    (out / "receipts/annotate/000001.json").unlink()  # killed before the receipt
    (out / "images/000001.tar").unlink()
    assert main(words) == 0

    for one, other in zip(manifests(root), manifests(out), strict=True):
        assert canonical_json_lines(read_manifest(one)) == canonical_json_lines(
            read_manifest(other)
        )
    for tar in (root / "images").iterdir():
        assert tar.read_bytes() == (out / "images" / tar.name).read_bytes()
    assert main(["verify", str(out)]) == 0


def test_another_seed_is_another_dataset(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(root, tmp_path / "copy")
    words = [*WORDS, "--letter-px", "12", "24", "--out", str(out), "--seed", "1"]

    assert main(words) == 2
    assert "belongs to another configuration" in capsys.readouterr().err
    assert main(["verify", str(out)]) == 0


def test_a_background_that_is_no_image_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note.jpg").write_text("no image")
    out = tmp_path / "out"

    assert main([*WORDS, "--backgrounds", str(tmp_path / "note.jpg"), "--out", str(out)]) == 2

    assert "note.jpg is no image" in capsys.readouterr().err
    assert not out.exists()
