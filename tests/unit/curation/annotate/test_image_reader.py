"""Images come from their tar files with few openings and few reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from annotations_schema.errors import ManifestError
from annotations_schema.layout import DatasetLayout
from curation.annotate import image_reader
from curation.annotate.image_reader import ImageReader


class CountedFile:
    """An open file that keeps a list of its reads."""

    def __init__(self, file: Any, reads: list[int]) -> None:
        self.file = file
        self.reads = reads

    def seek(self, offset: int) -> None:
        self.file.seek(offset)

    def read(self, length: int) -> bytes:
        self.reads.append(length)
        data: bytes = self.file.read(length)
        return data


def row(shard: str, data: bytes, offset: int, length: int) -> dict[str, Any]:
    piece = data[offset : offset + length]
    address = {"shard": shard, "offset": offset, "length": length}
    return {"image_id": "a" * 32, "sha256": sha256(piece).hexdigest(), **address}


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Two passes of 100,000 bytes; the reads of each opening, by file name."""
    openings: dict[str, list[int]] = {}
    plain = Path.open

    @contextmanager
    def counted(path: Path, *arguments: Any) -> Iterator[Any]:
        assert path.name not in openings, "opened twice"
        openings[path.name] = []
        with plain(path, *arguments) as file:
            yield CountedFile(file, openings[path.name])

    for name in ("000000", "000000.1"):
        path = DatasetLayout(tmp_path).images(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content(name))
    monkeypatch.setattr(Path, "open", counted)
    return openings


def content(name: str) -> bytes:
    return b"".join(sha256(f"{name} {n}".encode()).digest() for n in range(3125))


def test_a_tar_is_opened_once_and_neighbours_are_read_together(
    opened: dict[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "READ_AHEAD_BYTES", 40_000)
    with ImageReader(DatasetLayout(tmp_path)) as reader:
        for number in range(20):
            # The last two rows of every four come from the further pass.
            name = "000000" if number % 4 < 2 else "000000.1"
            wanted = row(name, content(name), 5_000 * number, 4_000)
            assert reader.read("000000", number, wanted) == content(name)[5_000 * number :][:4_000]
    assert set(opened) == {"000000.tar", "000000.1.tar"}
    assert all(len(reads) == 3 for reads in opened.values())


def test_an_image_larger_than_a_block_and_one_that_lies_back_are_read(
    opened: dict[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "READ_AHEAD_BYTES", 1_000)
    data = content("000000")
    with ImageReader(DatasetLayout(tmp_path)) as reader:
        for offset, length in ((50_000, 20_000), (10, 5), (99_999, 1)):
            found = reader.read("000000", 0, row("000000", data, offset, length))
            assert found == data[offset : offset + length]


def test_a_tar_that_ends_early_is_named(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    layout.images("000000").parent.mkdir()
    data = content("000000")
    layout.images("000000").write_bytes(data[:90_000])
    with (
        ImageReader(layout) as reader,
        pytest.raises(ManifestError, match=r"shard 000000, row 7 .*: 5000 bytes at offset 85000"),
    ):
        reader.read("000000", 7, row("000000", data, 85_000, 6_000))


def test_a_row_without_an_address_is_named(tmp_path: Path) -> None:
    wanted = {**row("000000", b"x", 0, 1), "offset": None}
    with (
        ImageReader(DatasetLayout(tmp_path)) as reader,
        pytest.raises(ManifestError, match=r"row 3 .* status ok without an address"),
    ):
        reader.read("000000", 3, wanted)
