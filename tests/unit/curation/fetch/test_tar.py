"""The tar of a shard: addresses known before it is written, and a hash before it is published."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from annotations_schema.layout import output_file
from curation.fetch.tar import Member, data_offsets, write_tar

BLOCK = tarfile.BLOCKSIZE


@pytest.mark.parametrize(
    "lengths", [[], [1], [BLOCK], [BLOCK - 1, BLOCK + 1, 0, 3 * BLOCK], [70_000, 5]]
)
def test_addresses_are_known_before_the_tar_is_written(tmp_path: Path, lengths: list[int]) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(bytes(n % 251 for n in range(sum(lengths))))
    members, start = [], 0
    for number, length in enumerate(lengths):
        members.append(Member(f"{number}.jpg", start, length))
        start += length
    written = write_tar(tmp_path / "000000.tar", spool, members)
    assert written == output_file(tmp_path / "000000.tar")
    with tarfile.open(tmp_path / "000000.tar") as tar:
        assert [one.offset_data for one in tar.getmembers()] == data_offsets(members)
    packed, whole = (tmp_path / "000000.tar").read_bytes(), spool.read_bytes()
    for member, offset in zip(members, data_offsets(members), strict=True):
        at = member.spool_offset
        assert packed[offset : offset + member.length] == whole[at : at + member.length]
