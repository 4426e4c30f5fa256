"""What img2dataset calls for each download: probe the header, keep the original bytes.

img2dataset offers two places to plug in: a `resizer`, called with a download's bytes, and a
`sample_writer_class`, called once per row in the order in which downloads end. Ours re-encode
nothing. Bytes wait in one spool file on disk, because the tar is written in the order of the plan
and a shard may be larger than memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from annotations_schema.codes import FailureCode
from annotations_schema.images import DecodeLimits, ImageDecodeError, ImageHeader, probe

_REJECTED = "failed_to_resize"  # img2dataset's word for a row whose resizer gave an error


class ProbedImage(NamedTuple):
    """Original bytes and what their header says."""

    data: bytes
    header: ImageHeader


class Spooled(NamedTuple):
    """An image in the spool: its byte range, its sha256 in hex, its header."""

    offset: int
    length: int
    sha256: str
    header: ImageHeader


class Rejected(NamedTuple):
    """A download that is no usable image."""

    code: FailureCode
    detail: str


class Resized(NamedTuple):
    """The six values img2dataset expects of a resizer; error is `code: detail` or None."""

    image: ProbedImage | None
    width: int | None
    height: int | None
    stored_width: int | None
    stored_height: int | None
    error: str | None


class Passthrough:
    """A resizer that resizes nothing: bytes whose header passes go on as they are."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: object = None) -> Resized:
        """Probe a download; img2dataset's parameter names."""
        data = img_stream.read()
        try:
            header = probe(data, self._limits)
        except ImageDecodeError as error:
            return Resized(None, None, None, None, None, f"{error.code}: {error.detail}")
        sizes = (header.width, header.height, header.stored_width, header.stored_height)
        return Resized(ProbedImage(data, header), *sizes, None)


class Spool:
    """Images on disk in order of arrival, and what is known of each row by image_id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Spooled | Rejected] = {}
        self.error: OSError | None = None
        """Why the spool could not be written; img2dataset would only print it."""
        self._num_bytes = 0
        self._file = path.open("wb")

    def add(self, image_id: str, image: ProbedImage) -> None:
        """Append an image.

        Raises:
            OSError: the disk is full, or worse; also kept in `error`.
        """
        try:
            self._file.write(image.data)
        except OSError as error:
            self.error = error
            raise
        length = len(image.data)
        sha256 = hashlib.sha256(image.data).hexdigest()
        self.entries[image_id] = Spooled(self._num_bytes, length, sha256, image.header)
        self._num_bytes += length

    def reject(self, image_id: str, rejected: Rejected) -> None:
        """Note that a download is no usable image."""
        self.entries[image_id] = rejected

    def close(self) -> None:
        """Flush and close the file; harmless when done twice."""
        try:
            self._file.close()
        except OSError as error:
            self.error = error
            raise


class SpoolWriter:
    """img2dataset's sample writer over a Spool; its first argument is bound beforehand.

    Rows whose download failed are not its matter: the FetchLog knows them.
    """

    def __init__(
        self,
        spool: Spool,
        shard_id: int,
        output_folder: str,
        save_caption: bool,
        oom_shard_count: int,
        schema: pa.Schema,
        encode_format: str,
    ) -> None:
        self._spool = spool

    def write(
        self, img_str: ProbedImage | None, key: str, caption: str | None, meta: Mapping[str, Any]
    ) -> None:
        """Keep one row; img2dataset's parameter names."""
        image_id = meta["image_id"]
        if img_str is not None:
            self._spool.add(image_id, img_str)
        elif meta["status"] == _REJECTED:
            self._spool.reject(image_id, _rejected(meta["error_message"]))

    def close(self) -> None:
        """Called by img2dataset at the end of the shard."""
        self._spool.close()


def _rejected(error_message: str) -> Rejected:
    code, _, detail = error_message.partition(": ")
    return Rejected(FailureCode(code), detail)
