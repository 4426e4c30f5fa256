"""Folders of images: every image file is judged or counted, and nothing else is asked for."""

import json

import numpy as np
import pytest
from PIL import Image

from annotations_schema import UsageError
from training.evaluation import EvaluateConfig, evaluate
from training.evaluation.folder import from_folders

NAMES = ("b.PNG", "a.jpg", "deeper/below/c.webp")


@pytest.fixture
def folder(tmp_path, coffee):
    root = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(coffee[number : 96 + number, :128])).save(path)
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (root / "notes.txt").write_text("no image file")
    (root / ".hidden.png").write_text("a file manager's")
    (root / ".cache").mkdir()
    (root / ".cache" / "thumb.png").write_text("a file manager's")
    return root


def test_image_files_are_found_below_the_folder_in_order(folder):
    found = from_folders([folder])
    expected = ["a.jpg", "b.PNG", "broken.jpg", "deeper/below/c.webp"]
    assert [image.image_id for image in found.images] == [f"photos/{name}" for name in expected]
    assert found.sources == (str(folder),)
    assert found.images[0].load().shape == (96, 128, 3)


@pytest.mark.parametrize(("name", "message"), [("absent", "is no folder"), ("empty", "holds no")])
def test_a_folder_without_images_is_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=message) as caught:
        from_folders([tmp_path / name])
    assert "\n" not in str(caught.value)


def test_fidelity_is_judged_and_undecodable_files_are_counted(folder, tmp_path, capsys):
    config = EvaluateConfig(images=(folder,), bootstrap_resamples=20)
    out = tmp_path / "out"
    result = evaluate([], out, config, tokenizers={"dim": lambda image: image // 2})
    names = ["PSNR", "SSIM", "VGG16 distance [vgg16_keras]", "FD [vgg16_keras relu5_3]"]
    assert sorted(result.systems[0].metrics) == sorted(names)
    assert (result.counts["images"], result.counts["images_unreadable"]) == (3, 1)
    assert [(p.image_id, p.code) for p in result.problems] == [
        ("photos/broken.jpg", "decode_truncated")
    ]
    assert result.metric("dim", "PSNR").value < result.metric("resize only", "PSNR").value
    shown = capsys.readouterr().err
    assert "text: left out: folders of images (--images) have no annotations" in shown
    assert "1 decode_truncated" in shown
    rows = [json.loads(line) for line in (out / "details.jsonl").read_text().splitlines()]
    dim = [row["perceptual"] for row in rows if row["system"] == "dim"]
    assert len(dim) == 3
    assert result.metric("dim", "VGG16 distance").value == pytest.approx(np.mean(dim))
