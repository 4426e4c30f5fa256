import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from annotations_schema.codes import FailureCode
from annotations_schema.images import (
    DecodeLimits,
    ImageDecodeError,
    decode,
    perceptual_hash,
    probe,
)

EXIF_ORIENTATION = 0x0112


def gradient(width: int = 48, height: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 5, rows * 7, (rows + columns) * 3], axis=-1).astype(np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def failure(data: bytes, **limits) -> FailureCode:
    with pytest.raises(ImageDecodeError) as caught:
        decode(data, DecodeLimits(**limits))
    return caught.value.code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_in_every_format(kind, orientation):
    upright = gradient()
    transpose = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),  # shown turned clockwise, so stored anticlockwise
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = np.ascontiguousarray(transpose[orientation](upright))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    pixels, header = decode(encode(Image.fromarray(stored), kind, exif=exif, **options))
    assert (header.width, header.height) == (48, 32)
    assert (header.stored_height, header.stored_width) == stored.shape[:2]
    assert header.exif_orientation == orientation
    assert header.format == kind.lower()
    assert np.abs(pixels.astype(int) - upright).max() <= (6 if kind == "JPEG" else 0)


def test_probe_and_decode_agree():
    data = encode(Image.fromarray(gradient()), "JPEG")
    assert probe(data) == decode(data)[1]


def test_modes_become_rgb_in_the_written_way():
    grey16 = np.array([[0, 32768, 65535]], dtype=np.uint16)
    pixels, _ = decode(encode(Image.fromarray(grey16)))
    assert pixels[0, :, 0].tolist() == [0, 128, 255]

    half_clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    half_clear.putpixel((1, 0), (255, 0, 0, 255))
    assert decode(encode(half_clear))[0].tolist() == [[[255, 255, 255], [255, 0, 0]]]

    palette = Image.fromarray(gradient()).quantize(16)
    expected = np.array(palette.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(palette))[0], expected)

    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = decode(encode(cmyk, "JPEG", quality=100))[0][0, 0]
    assert red[0] > 200
    assert red[1] < 60

    grey = Image.new("L", (3, 2), 77)
    assert decode(encode(grey))[0].tolist() == [[[77] * 3] * 3] * 2


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0][0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated_is_an_error_and_not_grey_bands(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    code = failure(data[: len(data) // 2])
    assert code in {FailureCode.DECODE_TRUNCATED, FailureCode.DECODE_CORRUPT}
    if kind != "WEBP":
        assert code is FailureCode.DECODE_TRUNCATED


def test_a_png_whose_middle_was_overwritten_is_corrupt():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = bytearray(encode(Image.fromarray(noise)))
    data[5000:6000] = bytes(1000)
    assert failure(bytes(data)) is FailureCode.DECODE_CORRUPT


def test_a_png_without_its_last_chunk_is_truncated():
    data = encode(Image.fromarray(gradient()))
    assert failure(data[:-12]) is FailureCode.DECODE_TRUNCATED


def test_a_bomb_is_refused_by_its_header():
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ImageDecodeError) as caught:
        probe(bomb)
    assert caught.value.code is FailureCode.PIXEL_CAP


def test_caps_are_those_given():
    data = encode(Image.fromarray(gradient()))
    assert failure(data, max_pixels=48 * 32 - 1) is FailureCode.PIXEL_CAP
    assert failure(data, max_side=47) is FailureCode.PIXEL_CAP
    assert decode(data, DecodeLimits(max_pixels=48 * 32, max_side=48))[0].shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", FailureCode.NOT_AN_IMAGE),
        (b"<!DOCTYPE html><html></html>", FailureCode.NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", FailureCode.FORMAT_UNSUPPORTED),
        (b"hello world" * 50, FailureCode.NOT_AN_IMAGE),
        (b"%PDF-1.7 and so on", FailureCode.NOT_AN_IMAGE),
        (encode(Image.new("RGB", (4, 4)), "PCX"), FailureCode.FORMAT_UNSUPPORTED),
    ],
)
def test_what_is_no_image_gets_its_code(data, code):
    assert failure(data) is code


def test_damaged_exif_leaves_the_pixels_usable():
    data = encode(
        Image.fromarray(gradient()), "JPEG", exif=b"Exif\x00\x00II*\x00garbage\xff\xff\xff"
    )
    assert decode(data)[1].exif_orientation == 0


def test_the_perceptual_hash_is_near_for_copies_and_far_for_others(astronaut, coffee):
    jpeg = np.array(Image.open(io.BytesIO(encode(Image.fromarray(astronaut), "JPEG", quality=40))))
    small = np.array(Image.fromarray(astronaut).resize((200, 200)))
    original = perceptual_hash(astronaut)

    def distance(image: np.ndarray) -> int:
        return (original ^ perceptual_hash(image)).bit_count()

    assert distance(jpeg) <= 2
    assert distance(small) <= 4
    assert distance(coffee) > 16


@pytest.mark.parametrize("file_format", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("orientation", [0, 1, 3, 6])
def test_a_window_is_that_part_of_the_upright_image(file_format, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, exif=exif)
    whole, header = decode(buffer.getvalue())
    part, same_header = decode(buffer.getvalue(), window=(5, 7, 25, 33))
    np.testing.assert_array_equal(part, whole[7:33, 5:25])
    assert part.flags.c_contiguous
    assert same_header == header


def test_a_window_of_a_file_that_is_cut_is_refused_like_the_whole():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "jpeg")
    with pytest.raises(ImageDecodeError):
        decode(buffer.getvalue()[:-200], window=(0, 0, 8, 8))
