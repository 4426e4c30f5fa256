"""What img2dataset calls for each download: probe the header, keep the bytes.

img2dataset offers two places to plug in: a `resizer`, called with a download's bytes, and a
`sample_writer_class`, called once per row in the order in which downloads end. Ours keep the
original bytes, unless the configuration caps the side (`curation.fetch.reencode`). Bytes wait in
one spool file on disk, because the tar is written in the order of the plan and a shard may be
larger than memory. img2dataset calls both from one thread.
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
from curation.fetch.reencode import needs_reencoding, reencode

_REJECTED = "failed_to_resize"  # img2dataset's word for a row whose resizer gave an error


class ProbedImage(NamedTuple):
    """An image to store: its bytes, their sha256 in hex, what their header says, and of the bytes
    as received the sha256 and the size of the frame."""

    data: bytes
    sha256: str
    header: ImageHeader
    sha256_received: str
    received_width: int
    received_height: int


class Spooled(NamedTuple):
    """An image in the spool: its byte range, its sha256 in hex, the rest as in ProbedImage."""

    offset: int
    length: int
    sha256: str
    header: ImageHeader
    sha256_received: str
    received_width: int
    received_height: int


class Rejected(NamedTuple):
    """A download that is no usable image."""

    code: FailureCode
    detail: str
    sha256_received: str


class Resized(NamedTuple):
    """The six values img2dataset expects of a resizer; error is `code:sha256:detail` or None."""

    image: ProbedImage | None
    width: int | None
    height: int | None
    stored_width: int | None
    stored_height: int | None
    error: str | None


class Passthrough:
    """A resizer that lets bytes whose header passes go on, as they are or under a cap of the side.

    Args:
        limits: caps on what a header announces.
        max_side: longest side of a stored image, px, or None.
        quality: of JPEG files that are encoded again.
    """

    def __init__(
        self, limits: DecodeLimits, max_side: int | None = None, quality: int = 95
    ) -> None:
        self._limits = limits
        self._max_side = max_side
        self._quality = quality

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: object = None) -> Resized:
        """Probe a download; img2dataset's parameter names."""
        data = img_stream.read()
        stored = sha256 = hashlib.sha256(data).hexdigest()
        try:
            header = probe(data, self._limits)
            received = (sha256, header.width, header.height)
            if self._max_side is not None and needs_reencoding(header, self._max_side):
                data, header = reencode(data, self._max_side, self._quality, self._limits)
                stored = hashlib.sha256(data).hexdigest()
        except ImageDecodeError as error:
            words = f"{error.code}:{sha256}:{error.detail}"
            return Resized(None, None, None, None, None, words)
        sizes = (header.width, header.height, header.stored_width, header.stored_height)
        return Resized(ProbedImage(data, stored, header, *received), *sizes, None)


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
        self.entries[image_id] = Spooled(self._num_bytes, length, *image[1:])
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
    code, sha256, detail = error_message.split(":", 2)
    return Rejected(FailureCode(code), detail, sha256)
