"""A tar whose bytes depend on its members alone: no time, no user, no machine."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

from annotations_schema.layout import OutputFile, atomic_write, output_file
from annotations_schema.storage import AnyPath

_COPY_BYTES = 2**20
_EXTENSIONS = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif", "jpeg2000": "jp2"}


class Member(NamedTuple):
    """A member to write: its name and the byte range of the spool that holds it."""

    name: str
    spool_offset: int
    length: int


def member_name(image_id: str, image_format: str) -> str:
    """The name of an image in the tar: its id and the extension of its probed format."""
    return f"{image_id}.{_EXTENSIONS.get(image_format, image_format)}"


def data_offsets(members: Sequence[Member]) -> list[int]:
    """For each member the offset of its first data byte in the tar that `write_tar` makes."""
    # A ustar header is one block; names and sizes here never need a second.
    spaces = (tarfile.BLOCKSIZE + _padded(member.length) for member in members)
    starts = itertools.accumulate(spaces, initial=0)
    return [start + tarfile.BLOCKSIZE for start, _ in zip(starts, members, strict=False)]


def write_tar(path: AnyPath, spool: AnyPath, members: Sequence[Member]) -> OutputFile:
    """Publish a tar atomically with the members in the given order.

    Returns:
        What was published, for a receipt.
    """
    with atomic_write(path) as temporary:
        with (
            temporary.open("wb") as target,
            spool.open("rb") as source,
            tarfile.TarFile(
                fileobj=target, mode="w", format=tarfile.USTAR_FORMAT, copybufsize=_COPY_BYTES
            ) as tar,
        ):
            for member in members:
                source.seek(member.spool_offset)
                tar.addfile(_header(member), source)
        return output_file(temporary)


def _padded(length: int) -> int:
    return -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _header(member: Member) -> tarfile.TarInfo:
    info = tarfile.TarInfo(member.name)  # mtime, uid and gid are 0, mode is 0644
    info.size = member.length
    return info
