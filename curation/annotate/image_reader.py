"""The bytes of a shard's images, read from the tar files of its passes and compared with hashes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

from annotations_schema.errors import ManifestError
from annotations_schema.layout import DatasetLayout

READ_AHEAD_BYTES = 8 << 20
"""Read at once: neighbouring images then cost an object store one request."""


class ImageReader:
    """Reads images in any order; each tar file is opened once, and its last block is kept."""

    def __init__(self, layout: DatasetLayout) -> None:
        self._layout = layout
        self._files = ExitStack()
        self._blocks: dict[str, _Blocks] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._files.close()

    def read(self, shard: str, number: int, row: Mapping[str, Any]) -> bytes:
        """The bytes of an ok row, as its address says, compared with its hash.

        Args:
            shard: of the row, for messages.
            number: of the row in its shard, for messages.
            row: with `image_id`, `sha256` and the address `shard`, `offset`, `length`.

        Raises:
            ManifestError: the tar file is absent, or holds other bytes there.
        """
        where = f"shard {shard}, row {number} ({row['image_id']})"
        if row["shard"] is None or row["offset"] is None or row["length"] is None:
            raise ManifestError(f"{where}: status ok without an address; fetch the shard again")
        tar = self._layout.images(row["shard"])
        try:
            if row["shard"] not in self._blocks:
                self._blocks[row["shard"]] = _Blocks(self._files.enter_context(tar.open("rb")))
            data = self._blocks[row["shard"]].read(row["offset"], row["length"])
        except OSError as error:
            why = error.strerror or error
            raise ManifestError(
                f"{where}: {tar} cannot be read ({why}); fetch the shard again"
            ) from error
        found = sha256(data).hexdigest()
        if found != row["sha256"]:
            raise ManifestError(
                f"{where}: {len(data)} bytes at offset {row['offset']} of {tar} have sha256 "
                f"{found[:16]}..., the fetch table says {str(row['sha256'])[:16]}...; "
                "fetch the shard again"
            )
        return data


class _Blocks:
    """A file read in blocks of READ_AHEAD_BYTES, or of a larger image; holds the last one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._start = 0
        self._block = b""

    def read(self, offset: int, length: int) -> bytes:
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._block):
            self._file.seek(offset)
            self._start, self._block = offset, self._file.read(max(length, READ_AHEAD_BYTES))
            begin = 0
        return self._block[begin : begin + length]
