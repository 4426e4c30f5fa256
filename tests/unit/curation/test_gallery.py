from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from annotations_schema.errors import UsageError
from annotations_schema.images import decode
from curation.demo import gallery as gallery_module
from curation.demo.gallery import GalleryImage, gallery, rotated_copy
from curation.demo.photos import HELD_OUT_PHOTOS, TRAIN_PHOTOS

NUM_POSTERS = 9


@pytest.fixture(scope="module")
def train() -> tuple[GalleryImage, ...]:
    return gallery(held_out=False, num_posters=NUM_POSTERS)


@pytest.fixture(scope="module")
def held_out() -> tuple[GalleryImage, ...]:
    return gallery(held_out=True, num_posters=NUM_POSTERS)


def test_every_picture_decodes_and_says_what_it_is(
    train: tuple[GalleryImage, ...], held_out: tuple[GalleryImage, ...]
) -> None:
    for image in train + held_out:
        pixels, header = decode(image.data)
        assert pixels.shape == (header.height, header.width, 3), image.name
        assert min(pixels.shape[:2]) >= 64, image.name
        assert pixels.std() > 3, image.name
        assert image.caption, image.name
        assert image.licence, image.name
        assert image.source, image.name


def test_each_part_has_faces_text_neither_and_posters(
    train: tuple[GalleryImage, ...], held_out: tuple[GalleryImage, ...]
) -> None:
    for part in (train, held_out):
        kinds = [image.kind for image in part]
        assert set(kinds) == {"face", "text", "neither", "poster"}
        assert kinds.count("poster") == NUM_POSTERS


def test_names_are_unique_and_tell_the_format(train: tuple[GalleryImage, ...]) -> None:
    names = [image.name for image in train]
    assert len(set(names)) == len(names)
    for image in train:
        header = decode(image.data)[1]
        assert image.name.endswith({"png": ".png", "jpeg": ".jpg"}[header.format])


def test_variants_say_so_and_no_two_pictures_are_alike(train: tuple[GalleryImage, ...]) -> None:
    whole = {photo.name for photo in TRAIN_PHOTOS}
    for image in train:
        stem = image.name.rsplit(".", 1)[0]
        assert stem in whole or "-variant-" in stem or stem.startswith("poster-")
    assert len({image.data for image in train}) == len(train)


def test_photographs_and_words_of_the_two_parts_differ(
    train: tuple[GalleryImage, ...], held_out: tuple[GalleryImage, ...]
) -> None:
    assert not {p.name for p in TRAIN_PHOTOS} & {p.name for p in HELD_OUT_PHOTOS}
    words = [{w.text.lower() for i in part for w in i.words} for part in (train, held_out)]
    assert words[0]
    assert words[1]
    assert not words[0] & words[1]


def test_a_file_used_on_both_sides_is_cut_where_nobody_stands_on_both() -> None:
    train = {(p.package, p.path): p for p in TRAIN_PHOTOS}
    shared = [
        (train[p.package, p.path], p) for p in HELD_OUT_PHOTOS if (p.package, p.path) in train
    ]

    assert [(left.name, right.name) for left, right in shared] == [
        ("card-table-left", "card-table-right")
    ]
    left, right = shared[0]
    assert left.crop is not None
    assert right.crop is not None
    assert left.crop[2] <= right.crop[0]


def test_what_a_variant_shows_lies_inside_its_photograph() -> None:
    for photo in TRAIN_PHOTOS + HELD_OUT_PHOTOS:
        pixels = gallery_module._pixels(photo)
        for x0, y0, x1, y1 in photo.focus:
            assert 0 <= x0 < x1 <= pixels.shape[1], photo.name
            assert 0 <= y0 < y1 <= pixels.shape[0], photo.name


def test_poster_words_are_inside_their_picture(train: tuple[GalleryImage, ...]) -> None:
    posters = [image for image in train if image.kind == "poster"]
    for image in posters:
        width, height = Image.open(io.BytesIO(image.data)).size
        assert image.words
        for word in image.words:
            x0, y0, x1, y1 = word.box_xyxy
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            assert word.text in image.caption
    assert not any(image.words for image in train if image.kind != "poster")


def test_the_same_seed_gives_the_same_bytes(held_out: tuple[GalleryImage, ...]) -> None:
    again = gallery(held_out=True, num_posters=NUM_POSTERS)

    assert [(i.name, i.data, i.words) for i in again] == [
        (i.name, i.data, i.words) for i in held_out
    ]


def test_another_seed_gives_other_variants(held_out: tuple[GalleryImage, ...]) -> None:
    other = gallery(held_out=True, num_posters=NUM_POSTERS, seed=1)
    variants = [i for i, image in enumerate(held_out) if "-variant-" in image.name]

    assert any(other[i].data != held_out[i].data for i in variants)


def test_a_rotated_copy_lies_on_its_side_and_decodes_upright(
    train: tuple[GalleryImage, ...],
) -> None:
    poster = next(image for image in train if image.kind == "poster")
    upright = np.asarray(Image.open(io.BytesIO(poster.data)).convert("RGB"))
    copy = rotated_copy(poster)
    stored = Image.open(io.BytesIO(copy.data))

    pixels, header = decode(copy.data)

    assert header.exif_orientation == 6
    assert (stored.width, stored.height) == (upright.shape[0], upright.shape[1])
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 3
    np.testing.assert_array_equal(pixels, np.asarray(ImageOps.exif_transpose(stored)))
    assert copy.words == poster.words


def test_a_missing_picture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = HELD_OUT_PHOTOS[0].__class__(
        name="absent",
        package="skimage",
        path="data/absent.png",
        kind="neither",
        caption="nothing",
        licence="CC0-1.0",
        source="nobody",
    )
    monkeypatch.setattr(gallery_module, "TRAIN_PHOTOS", (absent,))

    with pytest.raises(UsageError, match=r"absent\.png: must be part of package 'skimage'"):
        gallery(held_out=False, num_posters=0)


def test_the_gallery_imports_none_of_the_packages_it_reads_from() -> None:
    program = (
        "import sys\n"
        "from curation.demo.gallery import gallery\n"
        "gallery(held_out=True, num_posters=1)\n"
        "print(sorted({'skimage', 'sklearn', 'matplotlib', 'insightface', 'cv2', 'torch', 'ray'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
