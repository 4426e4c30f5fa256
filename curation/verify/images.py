"""The rules of `verify` over a tar file: its hash and each image at its address, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from annotations_schema.codes import Status
from annotations_schema.images import DecodeLimits, ImageDecodeError, probe
from annotations_schema.layout import OutputFile
from annotations_schema.storage import AnyPath
from curation.verify.rows import RowFinding

_ADDRESS = ("sha256", "bytes", "shard", "offset", "length")
_HEADER = ("format", "exif_orientation", "width", "height", "stored_width", "stored_height")
_PIECE_BYTES = 2**20

Row = dict[str, Any]


class Address(NamedTuple):
    """A row that has an image, with its number in the table."""

    number: int
    row: Row


def addresses(table: pa.Table) -> list[Address]:
    """The rows of a table that name bytes in a tar file, in the table's order."""
    rows = table.select(["status", *_ADDRESS, *_HEADER]).to_pylist()
    return [Address(number, row) for number, row in enumerate(rows) if row["offset"] is not None]


def check_images(
    path: AnyPath, rows: Sequence[Address], limits: DecodeLimits, read: list[OutputFile]
) -> Iterator[RowFinding]:
    """Every image's bytes hash to `sha256` and its header says what the row says.

    The file is read once, from its beginning to its end; memory holds one image.

    Args:
        path: the tar file.
        rows: the rows with an address in it.
        limits: those of the dataset's fetch.
        read: gets the size and hash of the whole file.
    """
    whole, position = hashlib.sha256(), 0
    with path.open("rb") as file:
        for number, row in sorted(rows, key=lambda one: (one.row["offset"], one.number)):
            offset, length = row["offset"], row["length"] or 0
            if row["bytes"] != length:
                found = f"bytes {row['bytes']}, length {row['length']}"
                yield RowFinding(number, "length", "length is the size of the image file", found)
            if offset < position or length < 0:
                rule = "an image begins where no other one is"
                yield RowFinding(number, "offset", rule, f"{offset}, another ends at {position}")
                continue
            position += _pass_over(file, offset - position, whole)
            data = file.read(length)
            whole.update(data)
            position += len(data)
            yield from _check_image(data, number, row, limits)
        position += _pass_over(file, None, whole)
    read.append(OutputFile(bytes=position, sha256=whole.hexdigest()))


def _pass_over(file: BinaryIO, num_bytes: int | None, whole: Any) -> int:
    """Hash so many bytes, or all that are left; returns how many there were."""
    num_read = 0
    while num_bytes is None or num_read < num_bytes:
        wanted = _PIECE_BYTES if num_bytes is None else min(_PIECE_BYTES, num_bytes - num_read)
        piece = file.read(wanted)
        if not piece:
            break
        whole.update(piece)
        num_read += len(piece)
    return num_read


def _check_image(data: bytes, number: int, row: Row, limits: DecodeLimits) -> Iterator[RowFinding]:
    if len(data) != row["length"]:
        found = f"{len(data)} of {row['length']} bytes at {row['offset']}"
        yield RowFinding(number, "offset", "the address lies inside the tar", found)
        return
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != row["sha256"]:
        rule = "the bytes at the address hash to sha256"
        found = f"{sha256[:16]}..., not {str(row['sha256'])[:16]}..."
        yield RowFinding(number, "sha256", rule, found)
    elif row["status"] == Status.OK:
        yield from _check_header(data, number, row, limits)


def _check_header(data: bytes, number: int, row: Row, limits: DecodeLimits) -> Iterator[RowFinding]:
    try:
        header = probe(data, limits)._asdict()
    except ImageDecodeError as error:
        yield RowFinding(number, "format", "an ok row holds an image", str(error))
        return
    for name in _HEADER:
        if row[name] != header[name]:
            rule = f"{name} is what the image header says"
            yield RowFinding(number, name, rule, f"{row[name]}, header {header[name]}")
