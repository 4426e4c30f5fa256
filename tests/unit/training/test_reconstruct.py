"""Pictures through a tokenizer: sizes, files, bad pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from annotations_schema import UsageError
from training.checkpoint import save_checkpoint
from training.evaluation.fidelity import psnr_db
from training.models.tokenizer import CONFIGS, Tokenizer
from training.reconstruct import (
    ReconstructConfig,
    pad_to_multiple,
    reconstruct,
    reconstruct_image,
    scale_to,
    side_by_side,
)
from training.typed_config import to_plain


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer(CONFIGS["tiny"]).eval()


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    path = tmp_path / "run" / "checkpoint.pt"
    config = {"tokenizer": to_plain(CONFIGS["tiny"])}
    save_checkpoint(path, {"model": tokenizer.state_dict(), "config": config, "step": 0})
    return path


@pytest.fixture
def pictures(tmp_path, coffee):
    Image.fromarray(coffee[:75, :101]).save(tmp_path / "odd.png")
    Image.fromarray(coffee[:40, :30]).save(tmp_path / "small.jpg")
    return [tmp_path / "odd.png", tmp_path / "small.jpg"]


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_picture_keeps_its_own_size(checkpoint, pictures, tmp_path, tokenizer):
    out = tmp_path / "out"
    result = reconstruct(checkpoint, pictures, out, ReconstructConfig())
    assert (result.num_failed, result.exit_code) == (0, 0)
    odd = read(out / "odd.png")
    assert odd.shape == (75, 101, 3)
    np.testing.assert_array_equal(odd, reconstruct_image(tokenizer, read(pictures[0])))
    first = result.pictures[0]
    assert first.psnr_db == pytest.approx(psnr_db(read(pictures[0]), odd))
    f = tokenizer.downsampling
    assert first.num_tokens == -(-75 // f) * -(-101 // f)
    beside = read(out / "odd.side_by_side.png")
    np.testing.assert_array_equal(beside, side_by_side(read(pictures[0]), odd))
    assert sorted(p.name for p in out.iterdir()) == [
        "odd.png",
        "odd.side_by_side.png",
        "small.png",
        "small.side_by_side.png",
    ]


def test_size_scales_the_longer_side_and_keeps_the_aspect(checkpoint, pictures, tmp_path):
    config = ReconstructConfig(size=64, side_by_side=False)
    reconstruct(checkpoint, pictures, tmp_path / "out", config)
    assert read(tmp_path / "out" / "odd.png").shape == (48, 64, 3)
    assert read(tmp_path / "out" / "small.png").shape == (64, 48, 3)
    assert not list((tmp_path / "out").glob("*side_by_side*"))


def test_a_bad_picture_is_a_line_and_exit_1_and_the_rest_goes_on(
    checkpoint, pictures, tmp_path, capsys
):
    (tmp_path / "page.jpg").write_text("<html></html>")
    named = [tmp_path / "gone.png", tmp_path / "page.jpg", *pictures]
    result = reconstruct(checkpoint, named, tmp_path / "out", ReconstructConfig())
    assert (result.num_failed, result.exit_code) == (2, 1)
    assert [p.error is None for p in result.pictures] == [False, False, True, True]
    shown = capsys.readouterr().err
    assert "gone.png: not reconstructed: No such file or directory" in shown
    assert "page.jpg: not reconstructed: not_an_image" in shown
    assert (tmp_path / "out" / "odd.png").exists()


def test_padding_repeats_the_last_row_and_column():
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    padded = pad_to_multiple(image, 4)
    assert padded.shape == (8, 8, 3)
    np.testing.assert_array_equal(padded[:5, :7], image)
    np.testing.assert_array_equal(padded[5:, :7], np.repeat(image[4:], 3, axis=0))
    np.testing.assert_array_equal(padded[:5, 7], image[:, 6])
    assert pad_to_multiple(image[:4, :4], 4).shape == (4, 4, 3)


def test_scaling_never_loses_a_side():
    assert scale_to(np.zeros((2, 1000, 3), np.uint8), 64).shape == (1, 64, 3)


def test_pictures_that_would_overwrite_each_other_are_refused(checkpoint, tmp_path):
    named = [tmp_path / "a.png", tmp_path / "b" / "a.jpg"]
    with pytest.raises(UsageError, match=r"2 pictures would become .*a\.png"):
        reconstruct(checkpoint, named, tmp_path / "out", ReconstructConfig())
    with pytest.raises(UsageError, match="no pictures given"):
        reconstruct(checkpoint, [], tmp_path / "out", ReconstructConfig())
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_checkpoint_is_refused(pictures, tmp_path):
    with pytest.raises(UsageError, match="no tokenizer checkpoint"):
        reconstruct(pictures[0], pictures, tmp_path / "out", ReconstructConfig())
    assert not (tmp_path / "out").exists()


def test_a_size_below_one_pixel_is_refused():
    with pytest.raises(UsageError, match="size 0 must be at least 1"):
        ReconstructConfig(size=0)
