"""Rows of a shard's earlier manifest that still hold, so that only new images meet detectors.

A further pass of fetch changes some rows of a shard. Where the bytes of an image are those that the
same configuration has annotated before, its columns are taken from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from annotations_schema.codes import Stage, Status
from annotations_schema.images import ImageHeader
from annotations_schema.layout import DatasetLayout, output_files, read_receipt
from annotations_schema.manifest import read_manifest, read_provenance
from annotations_schema.provenance import Provenance
from annotations_schema.region_columns import flatten_faces, flatten_text

_OF_AN_IMAGE = (*ImageHeader._fields, "phash", "text_state", "face_state", "dropped_regions")
_OF_A_FAILURE = ("status", "stage", "failure_code", "failure_detail")

Row = dict[str, Any]
Key = tuple[str, str]


def earlier_columns(
    layout: DatasetLayout, shard: str, provenance: Provenance, wanted: Sequence[Mapping[str, Any]]
) -> dict[Key, Row]:
    """By (image_id, sha256), the columns that annotation gave to images of the wanted rows.

    Empty where no receipt of this configuration vouches for the manifest that stands, or where its
    detectors were others: a library of another version may find other regions.

    Args:
        layout: the dataset.
        shard: six digits.
        provenance: what the footer of the new manifest will say.
        wanted: rows with `image_id` and `sha256`.
    """
    table = _vouched_manifest(layout, shard, provenance)
    if table is None:
        return {}
    keys = {(row["image_id"], row["sha256"]) for row in wanted}
    return {key: row for key, row in _annotated(table) if key in keys}


def _vouched_manifest(layout: DatasetLayout, shard: str, provenance: Provenance) -> pa.Table | None:
    receipt = read_receipt(layout, "annotate", shard)
    path = layout.annotations(shard)
    if receipt is None or receipt.config_sha256 != provenance.config_sha256 or not path.exists():
        return None
    if receipt.outputs != output_files(layout, [path]):
        return None
    before = read_provenance(path)
    detectors = (before.text_detector, before.face_detector)
    is_same = detectors == (provenance.text_detector, provenance.face_detector)
    return read_manifest(path) if is_same else None


def _annotated(table: pa.Table) -> Iterator[tuple[Key, Row]]:
    text, faces = flatten_text(table), flatten_faces(table)
    names = ["image_id", "sha256", *_OF_AN_IMAGE, *_OF_A_FAILURE]
    is_known = {
        kind: (~table.column(f"{kind}_regions").is_null().to_numpy()) for kind in ("text", "face")
    }
    for number, row in enumerate(table.select(names).to_pylist()):
        key = (row["image_id"], row["sha256"])
        if row["status"] == Status.OK:
            columns = {name: row[name] for name in _OF_AN_IMAGE}
            for kind, flat in (("text", text), ("face", faces)):
                own = np.arange(flat.offsets[number], flat.offsets[number + 1])
                regions = flat.regions.take(own) if is_known[kind][number] else None
                columns[f"{kind}_regions"] = regions
            yield key, columns
        elif row["stage"] == Stage.DECODE and row["sha256"] is not None:
            yield key, {name: row[name] for name in _OF_A_FAILURE}
