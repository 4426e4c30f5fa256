"""A dataset as fetch leaves it, made by hand: tar files, fetch tables, receipts."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from annotations_schema.codes import FailureCode, RegionState, Stage, Status
from annotations_schema.images import probe
from annotations_schema.layout import DatasetLayout, Receipt, output_files, write_receipt
from annotations_schema.manifest import table_from_rows, write_manifest
from annotations_schema.provenance import Provenance

SHARD = "000000"

Bytes = Mapping[str, bytes | None]


def write_fetched(root: Path, images: Bytes) -> DatasetLayout:
    """A dataset whose fetch is done: a tar of `images`, a fetch table; None is a row of 404."""
    layout = DatasetLayout(root)
    write_pass(layout, SHARD, images, {name: number for number, name in enumerate(images)})
    return layout


def write_pass(layout: DatasetLayout, name: str, images: Bytes, numbers: Mapping[str, int]) -> None:
    """One pass of fetch over the rows of `images`, whose numbers in the list are given."""
    tar = layout.images(name)
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as archive:
        for member_name, data in images.items():
            if data is not None:
                member = tarfile.TarInfo(member_name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    with tarfile.open(tar) as archive:
        offsets = {member.name: member.offset_data for member in archive.getmembers()}
    rows = [
        {**fetched_row(numbers[one], one, data, offsets), **({"shard": name} if data else {})}
        for one, data in images.items()
    ]
    # Nanoseconds, which pass through no Python object unharmed.
    taken = pa.array([10**18 + numbers[one] for one in images], pa.timestamp("ns"))
    table = table_from_rows(rows).append_column("input_taken", taken)
    write_manifest(layout.fetch(name), table, Provenance(config_sha256="0" * 64, creator="test"))
    for stage, paths in (("plan", []), ("fetch", [tar, layout.fetch(name)])):
        receipt = Receipt(
            stage=stage,
            shard=name,
            config_sha256="0" * 64,
            outputs=output_files(layout, paths),
            rows=len(rows),
        )
        write_receipt(layout, receipt)


def fetched_row(
    number: int, name: str, data: bytes | None, offsets: Mapping[str, int]
) -> dict[str, Any]:
    """A row of the fetch table, with the address of its image in the tar of SHARD."""
    row = {
        "image_id": hashlib.sha256(name.encode()).hexdigest()[:32],
        "source_row": number,
        "source_name": "list.csv",
        "url": f"https://example.org/{name}",
        "status": Status.OK,
        "attempts": 1,
        "elapsed_ms": 7,
        "fetched_at": datetime(2026, 1, 2, tzinfo=UTC),
        "text_state": RegionState.NOT_RUN,
        "face_state": RegionState.NOT_RUN,
    }
    if data is None:
        failure = {"stage": Stage.FETCH, "failure_code": FailureCode.HTTP_404, "http_status": 404}
        return {**row, **failure, "status": Status.FAILED}
    return {
        **row,
        **probe(data)._asdict(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "shard": SHARD,
        "offset": offsets[name],
        "length": len(data),
    }
